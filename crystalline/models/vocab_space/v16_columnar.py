"""v16: columns of slice blocks beside each other, and a vote (spec 3.16)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from crystalline.models.vocab_space.blocks import State, activation_named, linear, rms
from crystalline.models.vocab_space.model import Trace, VocabCache, VocabSpace
from crystalline.models.vocab_space.readable import Mixture, Readable, WordMap
from crystalline.models.vocab_space.slices import Part, SliceBlock, slice_pairs
from crystalline.models.vocab_space.switches import resolve


class Branches(Readable):
    """sum over branches of softmax(gate(g))_b act(g W_b + c) W'_b; c is shared by all of them.

    Args:
        width: k.
        inner_multiple: Hidden width of all branches together, in k.
        num_branches: How many share it.
        activation: gelu, relu, relu2 or silu.

    Raises:
        ValueError: If the hidden width cannot be shared evenly.
    """

    def __init__(self, width: int, inner_multiple: int, num_branches: int, activation: str) -> None:
        super().__init__()
        hidden = inner_multiple * width
        if num_branches < 1 or hidden % num_branches:
            raise ValueError(
                f"model.num_branches must divide inner_multiple * slice_width = {hidden}, "
                f"got {num_branches}"
            )
        self.num_branches = num_branches
        self.up = linear(width, hidden, std=0.1)
        self.bias = nn.Parameter(torch.zeros(hidden // num_branches))
        self.down = linear(hidden, width, std=0.1)
        self.gate = nn.Linear(width, num_branches)
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)
        self.activation = activation_named(activation)

    def forward(self, g: Part) -> Part:
        hidden = self.up(g).unflatten(-1, (self.num_branches, -1))
        hidden = self.activation(hidden + self.bias) * self.shares(g)[..., None]
        return self.down(hidden.flatten(-2))

    def shares(self, g: Part) -> Float[Tensor, "batch pos branches"]:
        return self.gate(g).softmax(-1)

    def listing(self, x: Part) -> dict[str, Mixture]:
        names = tuple(f"branch {number}" for number in range(self.num_branches))
        return {"branches": Mixture(names, self.shares(x).float())}

    def word_maps(self, vocab_size: int) -> dict[str, WordMap]:
        """As if every branch were taken."""
        return {"write": WordMap(self.up.weight.T, self.down.weight.T)}


class Inhibition(nn.Module):
    """Every column less I times what the others have written.

    That is x_c - x_0: the start, which all columns share, stays what it is.

    Args:
        num_columns: C.
    """

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(num_columns, num_columns))

    def forward(self, columns: Sequence[State], start: State) -> list[State]:
        written = [(x - start).to(self.strength.dtype) for x in columns]
        changed = []
        for x, strengths in zip(columns, self.of_others(), strict=True):  # no matrix: one kernel
            less = torch.zeros_like(written[0])
            for strength, theirs in zip(strengths, written, strict=True):
                less = less + strength * theirs
            changed.append(x - less.to(x.dtype))
        return changed

    def of_others(self) -> Float[Tensor, "columns columns"]:
        """I without its diagonal: no column inhibits itself."""
        return self.strength - self.strength.diag().diag()


class Vote(Readable):
    """x = sum over columns of omega_c x_c, omega = softmax(kappa - I kappa).

    Args:
        vocab_size: V.
        num_columns: C.
        vote: Switch: "static" learns kappa; "per_position" adds to it what a linear map of its own
            says of the words that a column has written.
        inhibition: Switch: "static_final" is the formula above, whose kappa passes no gradient
            through I; with "per_step", I acts on states instead, see `Inhibition`.
    """

    def __init__(self, vocab_size: int, num_columns: int, vote: str, inhibition: str) -> None:
        super().__init__()
        self.confidence = nn.Parameter(torch.zeros(num_columns))
        self.inhibition = Inhibition(num_columns)
        self.per_step = inhibition == "per_step"
        per_position = vote == "per_position"
        self.evidence = nn.Parameter(torch.zeros(num_columns, vocab_size)) if per_position else None

    def forward(self, columns: Sequence[State], start: State) -> State:
        shares = self.shares(columns, start)
        voted = start  # x_0 + sum of omega_c (x_c - x_0): small terms are not lost in the start
        for share, x in zip(shares.unbind(-1), columns, strict=True):
            voted = voted + (share[..., None] * (x - start)).to(start.dtype)
        return voted

    def shares(self, columns: Sequence[State], start: State) -> Float[Tensor, "*positions columns"]:
        """Omega; of every position, or of all at once where the vote is static."""
        kappa = self.confidence
        if self.evidence is not None:
            heard = [
                (rms((x - start).float()) * words).sum(-1)
                for x, words in zip(columns, self.evidence, strict=True)
            ]
            kappa = kappa + torch.stack(heard, -1)
        if not self.per_step:
            kappa = kappa - (kappa.detach()[..., None, :] * self.inhibition.strength).sum(-1)
        return kappa.softmax(-1)

    def listing(self, columns: Sequence[State], start: State) -> dict[str, Mixture]:
        names = tuple(f"column {number}" for number in range(len(columns)))
        return {"columns": Mixture(names, self._everywhere(columns, start))}

    def weights_by_step(
        self, columns: Sequence[State], start: State, num_steps: int
    ) -> Float[Tensor, "step batch pos column"]:
        """How much is left in the vote of what each column writes in each step.

        Inhibition is linear in what columns have written: w = w - I w after every step. So the vote
        omega w hears a step's updates through omega (1 - I)^n, n steps before the end.
        """
        heard = self._everywhere(columns, start)
        if not self.per_step:
            return heard.expand(num_steps, -1, -1, -1)
        by_step = []
        for _ in range(num_steps):
            heard = heard - heard @ self.inhibition.of_others()
            by_step.append(heard)
        return torch.stack(by_step[::-1])

    def _everywhere(
        self, columns: Sequence[State], start: State
    ) -> Float[Tensor, "batch pos column"]:
        """Omega of every position, fp32."""
        return self.shares(columns, start).float().expand(*start.shape[:2], -1)


class Columnar(VocabSpace):
    """C columns of slice blocks, each from the same start, and their vote.

    Pass C i + c is step i of column c; the words of its site are those of that column's state.

    Args:
        vocab_size: V.
        context_length: Longest sequence in tokens.
        num_columns: C.
        num_steps: N, blocks of each column.
        slice_width: k, words that a block reads, and that it writes.
        inner_multiple: Hidden width of all branches together, in k.
        num_branches: Of a block, in place of one MLP.
        activation: gelu, relu, relu2 or silu.
        mode: "faithful" or "repaired".
        score_scale: Switch; as published, 1 / sqrt(k). None: as the mode says, as for the rest.
        addressing: Switch.
        vote: Switch.
        inhibition: Switch.
        slice_seed: Of permuted addresses.
        options: Of `VocabSpace`.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_columns: int = 4,
        num_steps: int = 3,
        slice_width: int = 256,
        inner_multiple: int = 2,
        num_branches: int = 4,
        activation: str = "gelu",
        mode: str = "repaired",
        score_scale: str | None = None,
        addressing: str | None = None,
        vote: str | None = None,
        inhibition: str | None = None,
        slice_seed: int = 0,
        **options: Any,
    ) -> None:
        switches = resolve(
            mode, score_scale=score_scale, addressing=addressing, vote=vote, inhibition=inhibition
        )
        pairs = slice_pairs(
            vocab_size, num_columns * num_steps, slice_width, switches.addressing, slice_seed
        )
        blocks = [
            SliceBlock(
                reads,
                writes,
                Branches(slice_width, inner_multiple, num_branches, activation),
                switches.score_scale,
            )
            for reads, writes in pairs
        ]
        super().__init__(vocab_size, context_length, blocks, mode=mode, **options)
        self.num_columns = num_columns
        self.vote = Vote(vocab_size, num_columns, switches.vote, switches.inhibition)

    def run(self, x: State, trace: Trace, cache: VocabCache | None) -> State:
        columns = [x] * self.num_columns
        for number, block in enumerate(self.steps):
            column = number % self.num_columns
            changed = block(columns[column], None if cache is None else cache.passes[number])
            columns[column] = self.after(number, changed, trace)
            if self.vote.per_step and column == self.num_columns - 1:
                columns = self.vote.inhibition(columns, trace.start)
        return self.vote(columns, trace.start)

    def compiled_parts(self) -> list[nn.Module]:
        return [*super().compiled_parts(), self.vote, self.vote.inhibition]

    def pass_weights(
        self, states: Sequence[State], start: State
    ) -> Float[Tensor, "passes batch pos 1"]:
        """The share of a pass's column in the vote, less what inhibition takes away later."""
        columns = list(states[-self.num_columns :])
        if self.vote.per_step:
            columns = self.vote.inhibition(columns, start)
        num_steps = len(states) // self.num_columns
        weights = self.vote.weights_by_step(columns, start, num_steps)
        return rearrange(weights, "step batch pos column -> (step column) batch pos 1")
