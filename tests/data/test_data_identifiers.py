import pytest

from brainlm_lightning.data.identifiers import loosened, matched, similar, unmatched_report


@pytest.mark.parametrize(
    ("names", "same"),
    [
        (("sub-003", "Sub-3", "03", "3", "sub_03 ", "3.0", "SUB-0003"), True),
        (("Zoë-1", "Zoe\u0308-01"), True),  # composed and decomposed
        (("1-11", "11-1"), False),
        (("run_1_12", "run_11_2"), False),
        (("A1", "B1"), False),
        (("10", "100"), False),
    ],
)
def test_names_are_one_without_case_zeros_and_prefixes(names, same):
    assert (len({loosened(name) for name in names}) == 1) is same
    assert bool(similar(names)) is same


def test_nothing_is_matched_loosely_unless_told():
    assert matched(["007", "8"], ["7", "8"], loose=False) == {"8": "8"}
    assert matched(["007", "8"], ["7", "8"], loose=True) == {"8": "8", "007": "7"}


def test_an_exact_match_is_never_taken_by_a_loose_one():
    assert matched(["7", "007"], ["7", "0007"], loose=True) == {"7": "7", "007": "0007"}
    with pytest.raises(ValueError, match=r"'007' nearly matches \['7', '07'\]"):
        matched(["007"], ["7", "07"], loose=True)


def test_both_sides_without_a_partner_are_listed():
    report, near = unmatched_report(["007", "x"], ["7", "y"], {})
    assert report == "2 without a row: '007' (there: '7'), 'x'; 2 rows without a recording: '7', 'y'"
    assert near == 1
