from typing import get_args

import pytest
import torch
from torch import nn

from brainlm_lightning.model.embedding import Geometry
from brainlm_lightning.model.mae import MAEConfig, MaskedAutoencoder
from brainlm_lightning.model.masked import MaskedModel, Reconstruction
from brainlm_lightning.tasks.contrasts.net import PairwiseAdam, PerturbationPlan, make_perturbation, perturb
from brainlm_lightning.tasks.contrasts.states import TargetName

P, T, S = 6, 20, 5
FUNCTIONS = ["additive_parcel_frame", "additive_parcel", "gain_parcel", "low_rank"]
SEEN = torch.ones(3, P, dtype=torch.bool)


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "depth": 1, "num_heads": 2, "decoder_embed_dim": 16, "decoder_depth": 1}
    config = MAEConfig(patch_frames=S, decoder_num_heads=2, **sizes)
    net = MaskedAutoencoder(Geometry(torch.randn(P, 3) * 30, T), config).eval()
    with torch.no_grad():
        net.patch_projection.weight.mul_(20)  # so that states differ without training
    return net


@pytest.fixture
def windows():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, P, T, generator=generator)


class Linear(MaskedModel):
    """A brain whose state is known: CLS are two weighted sums of the parcels' means."""

    name, num_patches = "linear", T // S

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)  # no geometry, no sizes
        self.map = nn.Parameter(torch.tensor([[1.0, 2, 0, 0, 0, 0], [0, 0, 3, 0, 0, 0]]), requires_grad=False)

    def forward(self, signal_BPT, hidden_BPN, observed_BP):
        return Reconstruction(signal_BPT, signal_BPT.mean(2) @ self.map.T)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_zero_theta_changes_nothing(function, windows):
    change = make_perturbation(PerturbationPlan(function), windows[0])
    torch.testing.assert_close(change(windows[0]), windows[0], rtol=0, atol=0)


@pytest.mark.parametrize("target", get_args(TargetName))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_distance_falls_and_the_model_does_not_move(function, target, model, windows):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = perturb(model, PerturbationPlan(function, target, steps=30), *windows, SEEN)
    assert (found.after_B < found.before_B).all()
    assert found.loss_BI.shape == (3, 31)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_target_that_is_the_source_needs_no_change(function, model, windows):
    found = perturb(model, PerturbationPlan(function, steps=5), windows[0], windows[0], SEEN)
    assert float(found.size_BP.max()) == float(found.after_B.max()) == 0


def test_theta_is_the_smallest_change_that_reaches_the_target(windows):
    """Of a linear state: the pseudo-inverse, in closed form."""
    model = Linear()
    plan = PerturbationPlan("additive_parcel", steps=2000, learning_rate=0.02)
    found = perturb(model, plan, *windows, SEEN)
    difference = (windows[1] - windows[0]).mean(2) @ model.map.T
    torch.testing.assert_close(found.mean_BP, difference @ torch.linalg.pinv(model.map).T, rtol=1e-3, atol=1e-3)
    assert float(found.mean_BP[:, 3:].abs().max()) == 0


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_pair_is_the_same_in_any_batch(function, model, windows):
    together = perturb(model, PerturbationPlan(function, steps=10), *windows, SEEN)
    alone = perturb(model, PerturbationPlan(function, steps=10), *windows[:, 1:2], SEEN[:1])
    torch.testing.assert_close(together.size_BP[1], alone.size_BP[0], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(together.loss_BI[1], alone.loss_BI[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("reads_everything", [False, True])
def test_parcels_that_either_lacks_play_no_part(reads_everything, model, windows):
    model = Linear() if reads_everything else model
    seen = SEEN.clone()
    seen[:, 2] = False
    other = windows.clone()
    other[:, :, 2] = 100
    for target in ("cls", "decoded", "recording"):
        plan = PerturbationPlan(target=target, steps=3)
        found, poisoned = (perturb(model, plan, *given, seen) for given in (windows, other))
        assert torch.isnan(found.size_BP[:, 2]).all()
        torch.testing.assert_close(found.loss_BI, poisoned.loss_BI, rtol=0, atol=0)


def test_penalties_are_means_over_observed_parcels_and_shrink_theta(model, windows):
    plain, *shrunk = (
        perturb(model, PerturbationPlan("additive_parcel", steps=60, l1=l1, l2=l2), *windows, SEEN)
        for l1, l2 in ((0, 0), (0.1, 0), (0, 0.5))
    )
    theta_BP = shrunk[0].size_BP
    torch.testing.assert_close(shrunk[0].loss_BI[:, -1], shrunk[0].after_B + 0.1 * theta_BP.mean(1))
    for found in shrunk:
        assert (found.size_BP.mean(1) < plain.size_BP.mean(1)).all()


def test_low_rank_is_of_its_rank(windows):
    change = make_perturbation(PerturbationPlan("low_rank", rank=2), windows[0])
    nn.init.normal_(change.weight_BPO)
    assert torch.linalg.matrix_rank(change.theta()).tolist() == [2, 2, 2]


def test_one_number_a_pair_makes_pairwise_adam_adam():
    ours, theirs = (torch.tensor([[[1.0]], [[-2.0]]]) for _ in range(2))
    adam = torch.optim.Adam([theirs], lr=0.1, eps=0)
    descent = PairwiseAdam([ours], 0.1)
    for _ in range(20):
        descent.step([2 * ours])
        theirs.grad = 2 * theirs
        adam.step()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"rank": 0}, {"learning_rate": 0.0}, {"l1": -1.0}])
def test_what_cannot_be_optimised_is_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        PerturbationPlan(**wrong)
