import io

import pandas as pd

from brainlm_lightning.spreadsheet import harmless, original

CELLS = ["=1+1", "+x", "-x", "@x", "'=x", "''-y", "plain", "'quoted", "a=b", "\tx", "", "-3"]


def test_no_cell_begins_a_formula_and_all_come_back():
    table = pd.DataFrame({"text": CELLS, "number": [-1.5] * len(CELLS), "mixed": [None, -2, *CELLS[2:]]})
    safe = harmless(table)
    assert safe["text"].tolist()[:6] == ["'=1+1", "'+x", "'-x", "'@x", "''=x", "'''-y"]
    assert not any(cell.startswith(tuple("=+-@\t")) for cell in safe["text"])
    assert safe["number"].equals(table["number"])
    pd.testing.assert_frame_equal(original(safe), table)
    read = pd.read_csv(io.StringIO(safe.to_csv(index=False)), dtype={"text": str}, keep_default_na=False)
    assert original(read)["text"].tolist() == CELLS
