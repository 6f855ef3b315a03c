"""What a run folder keeps of a cohort: counts that agree with its table, and nobody's name."""

import json

import pytest

from brainlm_lightning.data.facts import cohort_facts
from brainlm_lightning.data.store import Store


def test_facts_agree_with_the_table(tiny_store):
    store = Store(tiny_store)
    facts, table = cohort_facts(store), store.recordings
    assert (facts["cohort"], facts["parcels"], facts["networks"], facts["tr_s"]) == ("tiny", 16, 4, 1.0)
    assert (facts["recordings"], facts["subjects"]) == (24, 24)
    assert facts["hours"] == pytest.approx(24 * 60 / 3600)
    assert facts["frames"] == [60.0, 60.0, 60.0]
    assert {name: counts[0] for name, counts in facts["split"].items()} == table["split"].value_counts().to_dict()
    assert facts["task"] == {"rest": [24, 24]}
    assert facts["site"] == {}
    assert facts["phenotypes"] == dict.fromkeys(("age", "symptoms", "sex", "noise_score"), 24)
    assert facts["simulated"] is True
    text = json.dumps(facts)
    assert not any(str(name) in text for column in ("subject_id", "recording_id") for name in table[column])
