"""Every run that starts from a pretrained model records which one: its file's hash is in ``provenance.json``."""

import hashlib

import pytest
from tiny import SIZES_OF, door, newest

from brainlm_lightning.run_folder import read_json

GIVEN = "model.init_args"
CONTRAST = {"data.scaling": "robust", f"{GIVEN}.analysis.subjects": "all", f"{GIVEN}.analysis.permutations": 99}
AGE = [f"{{column: age, {side}: 63}}" for side in ("below", "above")]
SETTINGS = {
    "forecast": {f"{GIVEN}.start": "pretrained"},
    "clinical_age": {"sweep": "null", f"{GIVEN}.method": "frozen", "trainer.val_check_interval": 1},
    "attention": {**CONTRAST, f"{GIVEN}.contrasts": f"{{age: {{group: [{AGE[0]}], against: [{AGE[1]}]}}}}"},
    "perturb": {
        **CONTRAST,
        f"{GIVEN}.contrasts": f"{{age: {{sources: [{AGE[0]}], targets: [{AGE[1]}]}}}}",
        f"{GIVEN}.perturbation.steps": 1,
        f"{GIVEN}.draw.pairs": 2,
    },
}


@pytest.mark.parametrize(
    ("verb", "name"), [("fit", "forecast"), ("fit", "clinical_age"), ("test", "attention"), ("test", "perturb")]
)
def test_a_run_records_the_hash_of_the_model_that_it_starts_from(verb, name, runs, pretrained, monkeypatch):
    monkeypatch.delitem(SIZES_OF, "PerturbTask", raising=False)  # other tests' sizes
    monkeypatch.delitem(SIZES_OF, "AttentionTask", raising=False)
    settings = {f"{GIVEN}.pretrained": pretrained, "data.cohorts": "tiny", **SETTINGS[name]}
    door(verb, runs, settings, f"experiments/{name}.yaml")
    found = read_json(newest(runs), "provenance.json")["pretrained"]["pretrained"]
    assert found["sha256"] == hashlib.sha256(pretrained.read_bytes()).hexdigest()
