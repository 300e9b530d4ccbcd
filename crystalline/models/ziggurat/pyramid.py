"""What makes the stages above 0 learn: objectives of their own, and feedback (spec section 13)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.layers.precision import at_least_fp32
from crystalline.quantizers.residual import ResidualQuantizer


@dataclass(frozen=True)
class Pyramid:
    """Options of the stages above 0.

    Raises:
        ValueError: If an option is unknown.
    """

    objective: Literal["none", "bag", "codes"] = "bag"
    """What a vector predicts: the tokens of the next group, or the codes of the next vector."""
    weight: float = 0.1
    """Weight of that loss, `loss/pyramid`."""
    detach: bool = False
    """Whether its gradient stops at the first fusion instead of reaching stage 0."""
    feedback: Literal["none", "gate", "xattn"] = "none"
    """How stage 0 reads the finished vectors of higher stages; "none" leaves logits to stage 0."""

    def __post_init__(self) -> None:
        if self.objective not in ("none", "bag", "codes"):
            raise ValueError(
                f"pyramid.objective must be none, bag or codes, got {self.objective!r}"
            )
        if self.feedback not in ("none", "gate", "xattn"):
            raise ValueError(f"pyramid.feedback must be none, gate or xattn, got {self.feedback!r}")


class BagOfTokens(nn.Module):
    """From vector j, the tokens of group j + 1 in any order: cross-entropy averaged over them."""

    def __init__(self, d_model: int, span: int) -> None:
        super().__init__()
        self.span = span
        self.read = nn.Linear(d_model, d_model, bias=False)
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self,
        vectors: Float[Tensor, "batch group d_model"],
        tokens: Int[Tensor, "batch pos"],
        embedding: Float[Tensor, "vocab d_model"],
    ) -> Float[Tensor, ""]:
        """Nats per token; zero where no group follows another."""
        groups = vectors.shape[1]
        if groups < 2:
            return vectors.sum() * 0.0
        targets = rearrange(
            tokens[:, self.span : groups * self.span],
            "batch (group span) -> batch group span",
            span=self.span,
        )
        logits = F.linear(self.norm(self.read(vectors[:, :-1])), embedding)
        return -at_least_fp32(logits).log_softmax(-1).gather(-1, targets).mean()


class NextCodes(nn.Module):
    """From vector j, the codes of vector j + 1: one softmax a level, given the levels before it.

    Scores compare a query with the codes themselves, so the head costs d_model x codebook_dim a
    level. Targets are constants; constant codes would be easy to predict, so watch the usage.
    """

    def __init__(self, d_model: int, quantizer: ResidualQuantizer) -> None:
        super().__init__()
        width, levels = quantizer.codebook_dim, quantizer.num_codebooks
        self.norm = nn.LayerNorm(d_model)
        self.known = nn.Linear(width, d_model, bias=False)
        self.queries = nn.ModuleList(nn.Linear(d_model, width) for _ in range(levels))

    def forward(
        self,
        vectors: Float[Tensor, "batch group d_model"],
        indices: Int[Tensor, "batch group levels"],
        quantizer: ResidualQuantizer,
    ) -> Float[Tensor, ""]:
        """Nats per code; zero where no vector follows another."""
        if vectors.shape[1] < 2:
            return vectors.sum() * 0.0
        targets = indices[:, 1:]
        codes = quantizer.lookup(targets).detach()
        before = self.known(codes.cumsum(-2) - codes)  # what the lower levels already say
        state = self.norm(vectors[:, :-1])
        total = vectors.new_zeros(())
        for level, query in enumerate(self.queries):
            scores = query(state + before[..., level, :]) @ quantizer.codes[level].detach().T
            total = total + F.cross_entropy(
                at_least_fp32(scores.flatten(0, 1)), targets[..., level].flatten()
            )
        return total / len(self.queries)


class Feedback(nn.Module):
    """h_t + tanh(g) * read(z), where z are the vectors of one stage that end at or before t.

    Vector j ends at token (j + 1) * span - 1, so position t may read j <= (t + 1) // span - 1; a
    learned null vector stands before the first. g starts at 0: training starts from the flat model.

    Args:
        d_model: Width.
        num_heads: Heads of the cross-attention.
        span: Tokens a vector covers.
        kind: "gate" reads the last finished vector, "xattn" attends to all of them.
    """

    def __init__(
        self, d_model: int, num_heads: int, span: int, kind: Literal["gate", "xattn"]
    ) -> None:
        super().__init__()
        self.span = span
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(d_model)
        self.null = nn.Parameter(torch.zeros(d_model))
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))
        self.query = nn.Linear(d_model, d_model, bias=False) if kind == "xattn" else None
        self.key_value = nn.Linear(d_model, 2 * d_model, bias=False) if kind == "xattn" else None

    def forward(
        self,
        h: Float[Tensor, "batch pos d_model"],
        vectors: Float[Tensor, "batch group d_model"],
        start: int = 0,
    ) -> Float[Tensor, "batch pos d_model"]:
        """`h` from position `start` on; `vectors` from the first one on."""
        null = self.null.expand(len(h), 1, -1).type_as(vectors)
        memory = self.norm(torch.cat([null, vectors], dim=1))
        position = torch.arange(start, start + h.shape[1], device=h.device)
        last = (position + 1) // self.span  # index into memory, 0 being the null vector
        read = memory[:, last] if self.query is None else self._attend(h, memory, last)
        return h + torch.tanh(self.gate) * self.out(read)

    def _attend(
        self, h: Tensor, memory: Tensor, last: Tensor
    ) -> Float[Tensor, "batch pos d_model"]:
        assert self.query is not None
        assert self.key_value is not None
        heads = self.num_heads
        q = rearrange(self.query(h), "batch pos (head d) -> batch head pos d", head=heads)
        k, v = rearrange(
            self.key_value(memory),
            "batch key (two head d) -> two batch head key d",
            two=2,
            head=heads,
        )
        allowed = torch.arange(memory.shape[1], device=h.device) <= last[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return rearrange(y, "batch head pos d -> batch pos (head d)")
