import numpy as np
import pandas as pd
import pytest
from numpy.random import default_rng

from brainlm_lightning.data.atlas import Atlas
from brainlm_lightning.data.places import Places
from brainlm_lightning.tasks.contrasts.attention import GroupContrast
from brainlm_lightning.tasks.contrasts.contrast import Procedure, by_network, check_contrasts, contrast_numbers
from brainlm_lightning.tasks.contrasts.pairs import draw_pairs
from brainlm_lightning.tasks.contrasts.score import compare_groups

NETWORKS = np.repeat(["one", "two", "none"], [4, 6, 2])


def perturbation_sizes(seed, effect=0.0, people=14):
    """Sizes that depend on source and target, not on the groups but for `effect` in the parcels of network one."""
    rng = default_rng(seed)
    subjects = np.tile([f"s{i}" for i in range(people)], 2)
    table = pd.DataFrame({"subject_id": subjects, "num_frames": 200})
    places = Places(table["num_frames"].to_numpy(), 200, {})
    pairs = draw_pairs(table, np.arange(people), people + np.arange(people), 3 * people, places, seed)
    of_recording = rng.normal(size=(2, 2 * people, 12))  # as a source, as a target
    of_recording[1, people:] += effect * (NETWORKS == "one")
    sizes = [of_recording[0, pairs.rows[0]] + of_recording[1, side] for side in pairs.rows[1:]]
    values = np.concatenate(sizes) + 0.3 * rng.normal(size=(6 * people, 12))
    return values, np.repeat([True, False], 3 * people), subjects[pairs.rows[1:].ravel()]


def test_a_null_perturbation_finds_nothing_at_the_stated_rate():
    found = [compare_groups(*perturbation_sizes(seed), 199, seed) for seed in range(200)]
    # 200 cohorts at 5 %: 10 ± 3.1, below 20 in all but one of a thousand
    assert sum((test.p_fdr < 0.05).any() for test in found) < 20
    assert sum((test.p_max < 0.05).any() for test in found) < 20
    assert sum(test.p[0] < 0.05 for test in found) < 20


def test_a_driven_network_is_ranked_first_and_found():
    values, in_a, subjects = perturbation_sizes(0, effect=2.0)
    numbers, arrays = contrast_numbers(values, in_a, subjects, ("one",), Procedure(NETWORKS, 499, 0))
    assert numbers["auc"] == 1
    assert numbers["num_parcels_fdr"] == numbers["num_parcels_fdr_above"] == 4
    assert numbers["network/one/p"] < 0.01 < numbers["network/two/p"]
    assert numbers["network/one/difference"] == pytest.approx(arrays["difference_P"][:4].mean())
    assert (numbers["num_subjects_a"], numbers["num_subjects_both"]) == (14, 14)


def test_networks_that_the_atlas_does_not_name_are_refused():
    parcels = pd.DataFrame(
        {"index": [1, 2], "label": ["a", "b"], "network": "none", "x_mm": 1.0, "y_mm": 2.0, "z_mm": 3.0}
    )
    with pytest.raises(ValueError, match=r"'mine' has no network 'Vis'.*its table has no column of networks"):
        check_contrasts({"one": GroupContrast((), (), ("Vis",))}, Atlas("mine", parcels))
    check_contrasts({"one": GroupContrast((), ())}, Atlas("mine", parcels))
    with pytest.raises(ValueError, match=r"contrasts are named \[\]; expected at least one"):
        check_contrasts({}, Atlas("mine", parcels))


def test_an_atlas_without_networks_has_parcels_alone():
    given = perturbation_sizes(0)
    numbers, arrays = contrast_numbers(*given, (), Procedure(np.repeat("none", 12), 99, 0))
    assert numbers["num_parcels"] == 12
    assert not [name for name in numbers if name.startswith("network")]
    np.testing.assert_array_equal(arrays["p_P"], contrast_numbers(*given, (), Procedure(NETWORKS, 99, 0))[1]["p_P"])


def test_parcels_of_no_network_are_in_no_mean_and_missing_ones_left_out():
    values = np.arange(24.0).reshape(2, 12)
    values[0, 1] = np.nan
    names, means = by_network(values, NETWORKS)
    assert names == ["one", "two"]
    np.testing.assert_allclose(means, [[(0 + 2 + 3) / 3, 6.5], [13.5, 18.5]])
