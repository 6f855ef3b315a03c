"""What `reproduce` leaves of a study: which steps ran, and what became of the others."""

from pathlib import Path

STUDY = Path("reproduce") / "study.json"  # in the folder of all experiments
RAN, UNCHANGED, SKIPPED, FAILED = "ran", "unchanged", "skipped", "failed"
