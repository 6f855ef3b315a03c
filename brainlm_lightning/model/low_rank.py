"""Low-rank adapters: a frozen linear map learns a correction of small rank (Hu et al. 2022, LoRA).

Shapes: I inputs, O outputs, R rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import parametrize

from brainlm_lightning.model.transformer import Block, Transformer

WEIGHT = ".parametrizations.weight."  # torch's: in the names of an adapted map's tensors
ORIGINAL, UP, DOWN, GAIN = "original", "0.up.weight", "0.down.weight", "0.gain"


@dataclass(frozen=True)
class LowRank:
    """Sizes of adapters.

    Attributes:
        rank: R; a map from I to O values learns R · (I + O) numbers instead of I · O.
        alpha: the correction is scaled by alpha / R, so that the learning rate need not change with the rank.
    """

    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self) -> None:
        """Validates the sizes."""
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"low_rank has rank {self.rank} and alpha {self.alpha}; expected 1 or more, and above 0")


class Adapter(nn.Module):
    """Adds alpha / R · up · down to a weight, which it does not change; up is 0 at the start, and so is the sum.

    Two linear layers hold the factors: they start, and decay, as other layers' weights do.
    """

    gain: Tensor

    def __init__(self, inputs: int, outputs: int, plan: LowRank) -> None:
        super().__init__()
        if plan.rank > min(inputs, outputs):
            raise ValueError(
                f"low_rank.rank is {plan.rank}; expected at most {min(inputs, outputs)}, the map's own rank"
            )
        self.down = nn.Linear(inputs, plan.rank, bias=False)
        self.up = nn.Linear(plan.rank, outputs, bias=False)
        nn.init.zeros_(self.up.weight)
        self.register_buffer("gain", self.up.weight.new_tensor(plan.alpha / plan.rank))

    def forward(self, weight_OI: Tensor) -> Tensor:
        """The adapted weight, (O, I)."""
        return adapted(weight_OI, self.up.weight, self.down.weight, self.gain)


def adapted(weight_OI: Tensor, up_OR: Tensor, down_RI: Tensor, gain: Tensor) -> Tensor:
    """A weight with its correction, (O, I)."""
    return weight_OI + gain * (up_OR @ down_RI)


def adapt_attention(encoder: Transformer, plan: LowRank) -> None:
    """Adapts the attention of every block: its joint projection to queries, keys and values, and its output.

    The two adapters have 6 · R · D numbers a block at width D. What reads ``qkv.weight`` sees it adapted. The weights
    themselves learn as before: freeze them where they should not.

    Raises:
        ValueError: the rank is above D.
    """
    for block in encoder.blocks:
        assert isinstance(block, Block)
        for layer in (block.attention.qkv, block.attention.output):
            adapter = Adapter(layer.in_features, layer.out_features, plan).to(layer.weight.device)
            parametrize.register_parametrization(layer, "weight", adapter)


def merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state without adapters: those of an adapted model added to its weights, under the names of a plain model.

    Args:
        weights: of a model, by the names of its ``state_dict``; of one without adapters they stay as they are.
    """
    plain = {name: value for name, value in weights.items() if WEIGHT not in name}
    for name in weights:
        layer, found, part = name.partition(WEIGHT)
        if found and part == ORIGINAL:
            of = {kind: weights[f"{layer}{WEIGHT}{kind}"] for kind in (ORIGINAL, UP, DOWN, GAIN)}
            plain[f"{layer}.weight"] = adapted(of[ORIGINAL], of[UP], of[DOWN], of[GAIN])
    return plain
