"""``python tests/fuzz --cases 2000 --seed 0``: prints how commands on damaged inputs end, by kind of input."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / "door"), str(Path(__file__).parents[2])]


def main() -> None:
    """Prints the table; ends with status 1 if there is anything but messages and right results."""
    from counting import VERDICTS, count

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given, begun = parser.parse_args(), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        counts, wrong = count(given.cases, given.seed, Path(place))
    print("\n\n".join(wrong))
    print(f"{given.cases} cases, seed {given.seed}, {time.monotonic() - begun:.0f} s\n")
    print("| kind | " + " | ".join(VERDICTS) + " |")
    print("| --- " * (len(VERDICTS) + 1) + "|")
    for kind, found in counts.items():
        print(f"| {kind} | " + " | ".join(str(found[word]) for word in VERDICTS) + " |")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
