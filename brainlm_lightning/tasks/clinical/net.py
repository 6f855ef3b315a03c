"""From a window's tokens to a phenotype: an encoder, pooling and a head of three layers (paper, sections 3.4 and 4.2).

Shapes: B batch, P parcels, T frames, N patches per parcel, V visible tokens, D width, O outputs.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from brainlm_lightning.model.decoding import Encoding
from brainlm_lightning.model.low_rank import LowRank, adapt_attention
from brainlm_lightning.model.mae import MaskedAutoencoder
from brainlm_lightning.model.transformer import Block

PoolingName = Literal["cls", "mean", "attention"]
MethodName = Literal[
    "frozen",
    "tuned",
    "tuned_qkv",
    "tuned_lora",
    "untrained_frozen",
    "untrained_tuned",
    "untrained_tuned_qkv",
    "untrained_tuned_lora",
]
TunedPart = Literal["none", "low_rank", "qkv", "all"]
TUNED_BY: dict[str, TunedPart] = {  # method -> what it tunes
    "frozen": "none",
    "tuned_lora": "low_rank",
    "tuned_qkv": "qkv",
    "tuned": "all",
}


@dataclass(frozen=True)
class HeadPlan:
    """How tokens become a prediction.

    Attributes:
        pooling: ``cls``, the encoder's summary token (paper); ``mean`` of the window's tokens; or ``attention``, a
            learnt query over all of them.
        dropout: rate on the activations of the encoder's blocks and of the head (paper: 0.4).
        hidden: width of the head's two hidden layers.
    """

    pooling: PoolingName = "cls"
    dropout: float = 0.4
    hidden: int = 128

    def __post_init__(self) -> None:
        """Validate dropout in [0, 1)."""
        if not 0 <= self.dropout < 1:
            raise ValueError(f"head.dropout is {self.dropout}; expected a share from 0 to below 1 (paper: 0.4)")


def tuned_part(method: str) -> TunedPart:
    """What a method tunes of its encoder; ``untrained_`` methods as their pretrained twins."""
    return TUNED_BY[method.removeprefix("untrained_")]


def mean_token(encoding: Encoding) -> Tensor:
    """The mean of the visible tokens of each window, (B, D)."""
    weight_BV1 = encoding.valid_BV[:, :, None].to(encoding.tokens_BVD.dtype)
    return (encoding.tokens_BVD * weight_BV1).sum(1) / weight_BV1.sum(1).clamp(min=1)


class AttentionProbe(nn.Module):
    """One learnt query that looks at all tokens of a window."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_D = nn.Parameter(torch.randn(width) * 0.02)
        self.key_value = nn.Linear(width, 2 * width)

    def forward(self, encoding: Encoding) -> Tensor:
        """The tokens' values, weighted by their keys' likeness to the query, (B, D)."""
        tokens_BLD = torch.cat([encoding.cls_BD[:, None], encoding.tokens_BVD], dim=1)
        seen_BL = functional.pad(encoding.valid_BV, (1, 0), value=True)
        key_BLD, value_BLD = self.key_value(tokens_BLD).chunk(2, dim=-1)
        query_B1D = self.query_D.to(key_BLD.dtype).expand(len(tokens_BLD), 1, -1)
        return functional.scaled_dot_product_attention(query_B1D, key_BLD, value_BLD, attn_mask=seen_BL[:, None])[:, 0]


class PhenotypeHead(nn.Module):
    """Pooled features, standardised by the training recordings', through three linear layers.

    Windows' summaries differ little beside what they share: standardised, the head learns from the first step.

    Args:
        width: D, of the pooled features.
        outputs: O, 1 for a number.
        plan: sizes and dropout.
    """

    mean_D: Tensor
    std_D: Tensor

    def __init__(self, width: int, outputs: int, plan: HeadPlan) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("std_D", torch.ones(width))
        self.layers = nn.Sequential(
            nn.Dropout(plan.dropout),
            nn.Linear(width, plan.hidden),
            nn.GELU(),
            nn.Dropout(plan.dropout),
            nn.Linear(plan.hidden, plan.hidden),
            nn.GELU(),
            nn.Dropout(plan.dropout),
            nn.Linear(plan.hidden, outputs),
        )

    def standardise(self, mean_D: Tensor, std_D: Tensor) -> None:
        """Takes mean and standard deviation of what the head is fed, over the training recordings."""
        self.mean_D.copy_(mean_D)
        self.std_D.copy_(std_D.clamp(min=1e-6))

    def forward(self, feature_BD: Tensor) -> Tensor:
        """Features to outputs, (B, O)."""
        output_BO: Tensor = self.layers((feature_BD - self.mean_D) / self.std_D)
        return output_BO


class PhenotypeModel(nn.Module):
    """An encoder with a head.

    Args:
        net: whose encoder is used; its decoder is neither run nor trained.
        outputs: O.
        plan: of pooling and head.
        tuned: what of the encoder learns: ``none`` of it; ``low_rank``, adapters of its attention, which it gets here;
            ``qkv``, the projections to queries, keys and values of every block; or ``all``.
        low_rank: sizes of the adapters, where it gets some.
    """

    def __init__(
        self, net: MaskedAutoencoder, outputs: int, plan: HeadPlan, tuned: TunedPart, low_rank: LowRank = LowRank()
    ) -> None:
        super().__init__()
        width = net.config.embed_dim
        self.net = net
        self.frozen = tuned == "none"
        self.pooling = plan.pooling
        self.probe = AttentionProbe(width) if plan.pooling == "attention" else None
        self.head = PhenotypeHead(width, outputs, plan)
        net.requires_grad_(False)
        if tuned == "all":
            for part in (net.patch_projection, net.position, net.encoder):
                part.requires_grad_(True)
            net.cls_D.requires_grad_(True)
        if tuned == "low_rank":
            adapt_attention(net.encoder, low_rank)
        for block in net.encoder.blocks if not self.frozen else ():
            assert isinstance(block, Block)
            if tuned == "qkv":
                block.attention.qkv.requires_grad_(True)
            block.dropout.p = plan.dropout
        self.train()

    def train(self, mode: bool = True) -> "PhenotypeModel":
        """A frozen encoder has no dropout either."""
        super().train(mode)
        if self.frozen:
            self.net.eval()
        return self

    def layers(self) -> list[list[nn.Parameter]]:
        """The trained parameters from the output down: head, blocks from the last to the first, embeddings."""
        net = self.net
        parts: list[list[nn.Module]] = [[self.head, *([self.probe] if self.probe is not None else [])]]
        blocks = list(net.encoder.blocks)
        parts += [[block] if block is not blocks[-1] else [block, net.encoder.norm] for block in reversed(blocks)]
        layers = [[parameter for part in layer for parameter in part.parameters()] for layer in parts]
        layers.append([*net.patch_projection.parameters(), *net.position.parameters(), net.cls_D])
        return [[parameter for parameter in layer if parameter.requires_grad] for layer in layers]

    def feature(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> Tensor:
        """The pooled features of windows, (B, D); see `MaskedAutoencoder.encode`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            encoding = self.net.encode(signal_BPT, hidden_BPN, observed_BP)
        if self.probe is not None:
            probed_BD: Tensor = self.probe(encoding)
            return probed_BD
        return encoding.cls_BD if self.pooling == "cls" else mean_token(encoding)

    def forward(self, signal_BPT: Tensor, hidden_BPN: Tensor, observed_BP: Tensor) -> Tensor:
        """Windows to outputs, (B, O)."""
        output_BO: Tensor = self.head(self.feature(signal_BPT, hidden_BPN, observed_BP))
        return output_BO
