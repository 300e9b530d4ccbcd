"""v15: slices written where the state is undecided, few words kept (spec 3.15)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from crystalline.layers.cross_entropy import IGNORED, cross_entropy
from crystalline.layers.kernels.largest import kth_largest
from crystalline.models.vocab_space.blocks import Fading, Scheduled, State
from crystalline.models.vocab_space.model import Trace, VocabCache, VocabSpace
from crystalline.models.vocab_space.readable import Readable, WordMap
from crystalline.models.vocab_space.slices import SliceBlock, SliceMLP, slice_pairs
from crystalline.models.vocab_space.switches import resolve


class GatedStep(Readable, Scheduled):
    """A slice block whose writes are scaled by an entropy; then the largest words alone are kept.

    Args:
        block: Reads and writes.
        top_states: Words that are kept at a position.
        floor: Least factor of the writes.
        by: Switch `top_k_by`.
        first_states: Words that are kept before training; until a half of it is done their number
            falls to `top_states`. None: it is `top_states` throughout.
        straight_through: Whether words that are not kept pass their gradient on.
    """

    limit: Tensor | None

    def __init__(
        self,
        block: SliceBlock,
        top_states: int,
        floor: float,
        by: str,
        first_states: int | None,
        straight_through: bool,
    ) -> None:
        super().__init__()
        self.block = block
        self.top_states, self.floor, self.by = top_states, floor, by
        self.straight_through = straight_through
        self.first_states = first_states
        # A tensor: recorded rounds follow it, and a checkpoint holds it.
        self.register_buffer("limit", None if first_states is None else torch.tensor(top_states))

    def begin_round(self, progress: float) -> None:
        """Keep first_states^(1 - s) top_states^s words, s from 0 to 1 in a half of training."""
        if self.limit is not None and self.first_states is not None:
            share = min(1.0, 2 * progress)
            kept = self.first_states ** (1 - share) * self.top_states**share
            self.limit.fill_(max(self.top_states, round(kept)))

    def forward(
        self, x: State, cache: Fading | None, scores: Float[Tensor, "batch pos vocab"]
    ) -> State:
        """The next state.

        Args:
            x: States.
            cache: Of the block.
            scores: Whose distribution decides how much is written; no gradient reaches them.
        """
        factor = relative_entropy(scores.detach()).clamp(min=self.floor)
        x = self.block.writes.add(x, factor[..., None] * self.block.update(x, cache))
        rank = x.detach().abs() if self.by == "magnitude" else x.detach()
        kept = x * self._largest(rank)
        return x + (kept - x).detach() if self.straight_through else kept

    def _largest(self, rank: State) -> State:
        """1 where a word is kept, else 0; gradual limits keep words of equal rank together."""
        if self.limit is None:
            largest = rank.topk(self.top_states, dim=-1).indices
            return torch.zeros_like(rank).scatter(-1, largest, 1.0)
        return (rank >= kth_largest(rank, self.limit)).to(rank.dtype)

    def init_cache(self, batch: int) -> Fading:
        return self.block.init_cache(batch)

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        return self.block.word_maps(vocab_size)


def relative_entropy(scores: Float[Tensor, "batch pos vocab"]) -> Float[Tensor, "batch pos"]:
    """Entropy of softmax(scores) over that of a uniform choice; fp32, in [0, 1]."""
    log_probs = scores.float().log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1) / math.log(scores.shape[-1])


class Predictive(VocabSpace):
    """Steps of v12 one by one, gated and thinned out, every state of which should predict.

    As published the gate looks at the raw state, whose one-hot of size sqrt(V) leaves no doubt:
    nothing is written and nothing learned. Repaired, it looks at what the head would say, and the
    words kept are those that are likely (by magnitude, those that are surely wrong take half of the
    places), and all words at first: from states that are thin from the start little is learned.

    The loss "inner" is the cross-entropy of every state, read by the head, in place i of N with
    weight auxiliary_decay**(N - 1 - i); the last state is among them. A forward pass is not given
    targets: those of all positions but the last are the tokens themselves, one further on, and
    the last position stays out.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_steps: N.
        slice_width: k, words that a step reads, and that it writes.
        inner_multiple: Hidden width of the MLPs, in k.
        activation: gelu, relu, relu2 or silu.
        top_states: Words that a state keeps after each step.
        auxiliary_weight: Of the loss "inner".
        auxiliary_decay: From one step back to the one before.
        write_floor: Least factor of the writes with `write_gate="head"`.
        mode: "faithful" or "repaired".
        score_scale: Switch; as published, 1 / sqrt(k). None: as the mode says, as for the rest.
        addressing: Switch.
        write_gate: Switch.
        top_k_by: Switch.
        thinning: Switch.
        top_k_gradient: Switch.
        slice_seed: Of permuted addresses.
        options: Of `VocabSpace`.

    Raises:
        ValueError: If no `top_states` words exist.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_steps: int = 8,
        slice_width: int = 256,
        inner_multiple: int = 2,
        activation: str = "gelu",
        top_states: int = 128,
        auxiliary_weight: float = 0.1,
        auxiliary_decay: float = 0.9,
        write_floor: float = 0.1,
        mode: str = "repaired",
        score_scale: str | None = None,
        addressing: str | None = None,
        write_gate: str | None = None,
        top_k_by: str | None = None,
        thinning: str | None = None,
        top_k_gradient: str | None = None,
        slice_seed: int = 0,
        **options: Any,
    ) -> None:
        if not 1 <= top_states <= vocab_size:
            raise ValueError(f"model.top_states must lie in [1, {vocab_size}], got {top_states}")
        switches = resolve(
            mode,
            score_scale=score_scale,
            addressing=addressing,
            write_gate=write_gate,
            top_k_by=top_k_by,
            thinning=thinning,
            top_k_gradient=top_k_gradient,
        )
        floor = write_floor if switches.write_gate == "head" else 0.0
        pairs = slice_pairs(vocab_size, num_steps, slice_width, switches.addressing, slice_seed)
        steps = []
        for reads, writes in pairs:
            mlp = SliceMLP(slice_width, inner_multiple, activation)
            block = SliceBlock(reads, writes, mlp, switches.score_scale)
            through = switches.top_k_gradient == "straight_through"
            first = vocab_size if switches.thinning == "gradual" else None
            steps.append(GatedStep(block, top_states, floor, switches.top_k_by, first, through))
        super().__init__(vocab_size, context_length, steps, mode=mode, **options)
        self.write_gate = switches.write_gate
        self.auxiliary_weight, self.auxiliary_decay = auxiliary_weight, auxiliary_decay

    def run(self, x: State, trace: Trace, cache: VocabCache | None) -> State:
        for number, step in enumerate(self.steps):
            scores = self.gate_scores(x, trace.start)
            x = step(x, None if cache is None else cache.passes[number], scores)
            x = self.after(number, x, trace)
        return x

    @torch.no_grad()
    def gate_scores(self, x: State, start: State) -> Float[Tensor, "batch pos vocab"]:
        """What the next write's factor is the entropy of."""
        return x if self.write_gate == "raw_state" else self.head(self.head.read(x, start))

    def auxiliary(self, trace: Trace) -> dict[str, Float[Tensor, ""]]:
        targets = F.pad(trace.tokens[:, 1:], (0, 1), value=IGNORED)
        total = trace.start.new_zeros((), dtype=torch.float32)
        for back, x in enumerate(reversed(trace.states)):
            logits = self.head(self.head.read(x, trace.start))
            total = total + self.auxiliary_decay**back * cross_entropy(logits, targets).loss
        return {"inner": total}

    def loss_weights(self, progress: float) -> dict[str, float]:
        return {"inner": self.auxiliary_weight}
