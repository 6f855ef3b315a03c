"""Tables and figures from run folders alone, without torch.

Each question has a `Page` (`page.py`), which is found by itself; `tables.py` and `files.py` show all of them.

Shapes, one meaning per letter: P parcels, T frames, H frames of a forecast's horizon, B windows, R recordings,
C classes (of a phenotype; of parcels: their networks), I optimiser steps, n predictions; 3 is (estimate, low, high).
"""
