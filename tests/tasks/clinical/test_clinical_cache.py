import numpy as np

from brainlm_lightning import provenance
from brainlm_lightning.tasks.clinical import cache
from brainlm_lightning.tasks.clinical.cache import cached, cached_with


def count(runs, key, calls):
    def compute():
        calls.append(key)
        return {"number": np.array(len(calls))}

    return int(cached(runs, key, compute)["number"])


def test_arrays_are_computed_once_for_each_key(tmp_path):
    calls = []
    assert [count(tmp_path, {"seed": seed}, calls) for seed in (0, 1, 0, 1)] == [1, 2, 1, 2]


def test_other_code_computes_anew(tmp_path, monkeypatch):
    """Whatever git says of the checkout: a changed file has another digest."""
    calls = []
    assert count(tmp_path, {"seed": 0}, calls) == 1
    monkeypatch.setattr(cache, "code_digest", lambda: "another")
    assert count(tmp_path, {"seed": 0}, calls) == 2


def test_the_digest_of_the_code_follows_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE_FOLDER", tmp_path)
    digests = []
    for content in ("a = 1", "a = 2", "a = 1"):
        (tmp_path / "module.py").write_text(content)
        provenance.code_digest.cache_clear()
        digests.append(provenance.code_digest())
    provenance.code_digest.cache_clear()
    assert digests[0] == digests[2] != digests[1]


def test_arrays_computed_together_are_kept_apart(tmp_path):
    asked = []

    def compute(names):
        asked.append(names)
        return {name: np.full(2, ord(name)) for name in names}

    def read(name, *others):
        return cached_with(tmp_path, name, {own: {"of": own} for own in (name, *others)}, compute).tolist()

    assert read("a", "b") == [97, 97]
    assert read("b") == [98, 98]
    assert read("c", "a") == [99, 99]
    assert read("a", "d") == [97, 97]  # what it is not asked for is not computed for its own sake
    assert asked == [["a", "b"], ["c"]]
