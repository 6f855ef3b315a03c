"""Tables and figures from run folders alone, without torch.

Each question has a `Page` (`page.py`), which is found automatically; `tables.py` and `files.py` collect all pages.

Shapes: P parcels, T frames, C frames of a forecast's context, H frames of its horizon, B windows, R recordings,
Q classes of a phenotype or networks of parcels, I optimiser steps, n predictions; 3 is (estimate, low, high).
"""
