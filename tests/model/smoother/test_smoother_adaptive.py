"""A group's Gaussian that moves towards a window, where the window shows nothing of some parcels."""

import torch

from brainlm_lightning.model.smoother.adaptive import adapted
from brainlm_lightning.model.smoother.gradients import Accuracy
from brainlm_lightning.model.smoother.kronecker import KroneckerGaussian, Spectrum, posterior

PARCELS, FRAMES = 7, 24
EXACT = Accuracy(tolerance=1e-12)
SEEN, UNSEEN = [0, 1, 3, 4, 6], [2, 5]


def group(noise=0.2):
    random = torch.Generator().manual_seed(3)
    root = torch.randn(PARCELS, PARCELS, generator=random, dtype=torch.float64)
    frame = torch.arange(FRAMES, dtype=torch.float64)
    time = 0.7 ** (frame[:, None] - frame).abs()
    covariance = root @ root.T / PARCELS + 0.1 * torch.eye(PARCELS, dtype=torch.float64)
    return KroneckerGaussian.of(Spectrum.of(covariance), Spectrum.of(time), noise)


def window(model, seed=0, unseen=UNSEEN):
    """Two windows of other people: parcels 0 and 1 are related as nowhere in the group."""
    random = torch.Generator().manual_seed(seed)
    white = torch.randn(2, PARCELS, len(model.time.values), generator=random, dtype=torch.float64)
    signal = model.parcels.root @ white @ model.time.root.mT
    signal[:, 1] = -1.5 * signal[:, 0]
    visible = torch.rand(2, PARCELS, FRAMES, generator=random) < 0.7
    visible[:, unseen] = False
    return signal, visible


def blocks(covariance):
    seen, unseen = torch.tensor(SEEN), torch.tensor(UNSEEN)
    regression = torch.linalg.solve(covariance[seen][:, seen], covariance[seen][:, unseen]).T
    left = covariance[unseen][:, unseen] - regression @ covariance[seen][:, unseen]
    return regression, left


def test_parcels_that_are_never_visible_keep_the_groups_regression_and_what_it_leaves():
    model = group()
    own = adapted(model, *window(model), 0.8, EXACT)[0].parcels.covariance
    of_group = blocks(model.parcels.covariance)
    for covariance in own:
        for got, expected in zip(blocks(covariance), of_group, strict=True):
            torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)
    assert (own[:, 0, 1] < 0).all()
    assert not torch.allclose(own[0], own[1])


def test_adapting_leaves_parcels_that_are_never_visible_to_what_the_group_knows():
    """Without noise E[unseen | seen] is the group's regression on the smoothed seen parcels, whatever they became."""
    model = group(noise=1e-4)
    signal, visible = window(model)
    visible[:, SEEN] = True
    moved, _ = adapted(model, signal, visible, 0.8, EXACT)
    filled = posterior(moved, signal, visible, EXACT).values_BPT
    regression, _ = blocks(model.parcels.covariance)
    torch.testing.assert_close(filled[:, UNSEEN], regression @ filled[:, SEEN], atol=2e-3, rtol=0)


def test_without_mixing_nothing_moves():
    model = group()
    own = adapted(model, *window(model), 0.0, EXACT)[0].parcels.covariance
    torch.testing.assert_close(own, model.parcels.covariance.expand(2, -1, -1), atol=1e-10, rtol=0)


def test_a_solution_may_begin_at_that_of_another_gaussian_and_is_the_same():
    model = group()
    signal, visible = window(model)
    moved, near = adapted(model, signal, visible, 0.8, EXACT)
    cold = posterior(moved, signal, visible, EXACT)
    warm = posterior(moved, signal, visible, EXACT, near)
    torch.testing.assert_close(warm.values_BPT, cold.values_BPT, atol=1e-9, rtol=0)
    rough = Accuracy(tolerance=1e-4)
    taken = [posterior(moved, signal, visible, rough, begin).iterations for begin in (None, near)]
    assert taken[1] < 0.8 * taken[0]
    assert posterior(moved, signal, visible, rough, cold.values_BPT).iterations == 0
