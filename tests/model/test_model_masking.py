"""Masks: numbers against big integers, counts against arithmetic, draws against chance."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from brainlm_lightning.data.schedule import mix
from brainlm_lightning.model.masking import MASKINGS, Grid, counter_noise, draw_mask

PARCELS, PATCHES = 12, 5
NETWORK_P = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
KEYS = torch.from_numpy(mix(np.arange(6, dtype=np.uint64)).view(np.int64))


def grid(observed_BP):
    return Grid(observed_BP, PATCHES, NETWORK_P)


def everything(windows):
    return torch.ones(windows, PARCELS, dtype=torch.bool)


def partly_observed(windows):
    observed_BP = everything(windows)
    for window in range(windows):
        observed_BP[window, : window % PARCELS] = False
    return observed_BP


def splitmix64(key, count):
    """Steele, Lea & Flood 2014, in integers without bounds."""
    numbers, state, whole = [], key, 2**64
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % whole
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % whole
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % whole
        numbers.append((z ^ (z >> 31)) >> 1)
    return numbers


def test_splitmix64_reproduces_the_published_numbers():
    # First outputs for seed 1234567 of Vigna's reference implementation.
    assert [x << 1 for x in splitmix64(1234567, 2)] == [6457827717110365317 & ~1, 3203168211198807973 & ~1]


def test_noise_is_splitmix64():
    keys = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 0x123456789ABCDEF0]
    key_B = torch.from_numpy(np.array(keys, np.uint64).view(np.int64))
    assert counter_noise(key_B, 50).tolist() == [splitmix64(key, 50) for key in keys]


def test_noise_begins_with_the_number_that_the_schedule_makes_of_the_key():
    keys = mix(np.arange(100, dtype=np.uint64))
    noise = counter_noise(torch.from_numpy(keys.view(np.int64)), 3)[:, 0]
    np.testing.assert_array_equal(noise.numpy().astype(np.uint64), mix(keys) >> np.uint64(1))


@pytest.mark.parametrize("ratio", [0, 0.2, 0.5, 0.75, 0.9, 1])
@pytest.mark.parametrize("observed", [everything, partly_observed])
def test_random_tokens_hide_the_exact_share_of_what_is_observed(ratio, observed):
    observed_BP = observed(6)
    hidden_BPN = draw_mask("random", KEYS, ratio, grid(observed_BP))
    expected = [round(ratio * PATCHES * count) for count in observed_BP.sum(1).tolist()]
    assert hidden_BPN.sum((1, 2)).tolist() == expected


def test_halves_are_rounded_as_python_rounds_them():
    for ratio, parcels in ((0.3, 19), (0.07, 30), (0.55, 22), (0.14, 15)):
        hidden_BPN = draw_mask("random", KEYS[:1], ratio, Grid(torch.ones(1, parcels, dtype=torch.bool), PATCHES))
        assert int(hidden_BPN.sum()) == round(ratio * (parcels * PATCHES))


@pytest.mark.parametrize("name", MASKINGS)
@pytest.mark.parametrize("ratio", [0.3, 0.75, 1])
def test_what_is_unobserved_is_never_hidden(name, ratio):
    observed_BP = partly_observed(6)
    hidden_BPN = draw_mask(name, KEYS, ratio, grid(observed_BP))
    assert hidden_BPN.shape == (6, PARCELS, PATCHES)
    assert not hidden_BPN[~observed_BP].any()
    if ratio == 1:
        assert hidden_BPN[observed_BP].all()


@pytest.mark.parametrize("name", MASKINGS)
def test_a_window_has_its_mask_whatever_the_batch_around_it(name):
    observed_BP = partly_observed(6)
    together = draw_mask(name, KEYS, 0.5, grid(observed_BP))
    alone = [draw_mask(name, KEYS[i : i + 1], 0.5, grid(observed_BP[i : i + 1])) for i in range(6)]
    assert torch.equal(together, torch.cat(alone))
    backwards = draw_mask(name, KEYS.flip(0), 0.5, grid(observed_BP.flip(0)))
    assert torch.equal(together, backwards.flip(0))


def test_different_windows_have_different_masks():
    hidden_BPN = draw_mask("random", KEYS, 0.5, grid(everything(6)))
    assert len({tuple(mask.flatten().tolist()) for mask in hidden_BPN}) == 6


@pytest.mark.parametrize(("ratio", "first_hidden"), [(0, 5), (0.2, 4), (0.6, 2), (1, 0)])
def test_future_hides_the_last_patches_of_every_parcel(ratio, first_hidden):
    hidden_BPN = draw_mask("future", KEYS, ratio, grid(everything(6)))
    assert not hidden_BPN[:, :, :first_hidden].any()
    assert hidden_BPN[:, :, first_hidden:].all()


def test_parcels_are_hidden_whole_and_counted_among_the_observed():
    observed_BP = partly_observed(6)
    hidden_BPN = draw_mask("parcels", KEYS, 0.5, grid(observed_BP))
    assert torch.equal(hidden_BPN.any(2), hidden_BPN.all(2))
    assert hidden_BPN.all(2).sum(1).tolist() == [round(0.5 * count) for count in observed_BP.sum(1).tolist()]


def test_networks_are_hidden_whole():
    hidden_BPN = draw_mask("networks", KEYS, 0.5, grid(everything(6)))
    hidden_BKP = hidden_BPN.all(2).unflatten(1, (4, 3))
    assert torch.equal(hidden_BPN.any(2).unflatten(1, (4, 3)).any(2), hidden_BKP.all(2))
    assert hidden_BKP.all(2).sum(1).tolist() == [2] * 6


@pytest.mark.parametrize(("name", "units"), [("random", 60), ("parcels", 12), ("networks", 4)])
def test_every_unit_is_hidden_equally_often(name, units):
    windows = 4000
    key_B = torch.from_numpy(mix(np.arange(windows, dtype=np.uint64)).view(np.int64))
    hidden_BPN = draw_mask(name, key_B, 0.25, grid(everything(windows)))
    counts = hidden_BPN.flatten(1).unflatten(1, (units, -1))[:, :, 0].sum(0).numpy()
    # Drawn without replacement: units' covariance is that of a multinomial, so this is χ² of units - 1.
    statistic = ((counts - windows / 4) ** 2).sum() / (windows * 0.25 * 0.75) * (units - 1) / units
    assert chi2.cdf(statistic, units - 1) < 1 - 1e-4
    assert chi2.cdf(statistic, units - 1) > 1e-4


def test_pairs_of_tokens_are_hidden_as_often_as_by_chance():
    windows, tokens = 20_000, PARCELS * PATCHES
    key_B = torch.from_numpy(mix(np.arange(windows, dtype=np.uint64)).view(np.int64))
    hidden_BL = draw_mask("random", key_B, 0.5, grid(everything(windows))).flatten(1).double()
    r_LL = torch.corrcoef(hidden_BL.T)[~torch.eye(tokens, dtype=torch.bool)]
    assert abs(r_LL.mean() + 1 / (tokens - 1)) < 1e-3  # a fixed number is hidden, so one more here is one less there
    assert r_LL.abs().max() < 6 / windows**0.5 + 1 / (tokens - 1)


@pytest.mark.parametrize("ratio", [-0.1, 1.01, 75, float("nan")])
def test_a_ratio_outside_0_to_1_is_an_error(ratio):
    with pytest.raises(ValueError, match=f"mask ratio {ratio} is outside 0 to 1"):
        draw_mask("random", KEYS, ratio, grid(everything(6)))


def test_networks_without_labels_are_an_error():
    with pytest.raises(ValueError, match="'networks' needs a network label for each parcel"):
        draw_mask("networks", KEYS, 0.5, Grid(everything(6), PATCHES))
