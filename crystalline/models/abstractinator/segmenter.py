"""Where segments begin: one rule for whole sequences and for symbols that come one by one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crystalline.models.abstractinator.options import Segmentation
from crystalline.models.abstractinator.symbols import Symbols


@dataclass
class SegmenterState:
    """What the symbols to come have to know of those before."""

    begun: Int[Tensor, " batch"]
    """Segments begun before the next symbol, however many there is room for."""
    since: Int[Tensor, " batch"]
    """Symbols since the last cut that the rule made, up to the next symbol; 0: it is cut off."""
    finished: Int[Tensor, " batch"]
    """Segments that are known to be finished."""
    bits: Float[Tensor, " batch"]
    """H of the last symbol; -inf before the first."""
    spacelike: Bool[Tensor, " batch"]
    """Whether the last symbol was."""


@dataclass(frozen=True)
class Cut:
    """The segments of a stretch of symbols."""

    segment: Int[Tensor, "batch pos"]
    """Of each symbol, counted from the sequence's first."""
    aim: Int[Tensor, "batch pos"]
    """The segment that a prediction made at each position writes into: with shift 1, that of the
    next symbol. All segments before it are finished, and this is known from the symbols so far."""
    offset: Int[Tensor, "batch pos"]
    """How far into that segment."""
    place: Int[Tensor, "batch pos"]
    """How far each symbol is into its own segment."""
    first: Int[Tensor, " batch"]
    """Segments that were finished before the stretch."""


PLACES = 64
"""Places in a segment that the parts tell apart; later ones count as the last."""
RATE = 0.1
"""Bits that the threshold moves in a round, times ln(wanted / found) of the mean length."""


class Segmenter(nn.Module):
    """Cuts by `Segmentation`; no gradient passes it, and only its threshold may move.

    Args:
        options: The rule.
        length: Symbols that a sequence may have.
        vocab_size: Ids, for rule "space"; None above the first level.

    Raises:
        ValueError: If rule "space" is to read anything but bytes.
    """

    spacelike: Bool[Tensor, " vocab"] | None
    """See `spacelike_bytes`; for rule "space" alone."""
    threshold: Float[Tensor, ""]
    """Bits: `theta_bits` of rule "global", else `delta_bits`, moved or not."""
    round_sums: Float[Tensor, " sums"]
    """Symbols and segments of the round so far."""

    def __init__(self, options: Segmentation, length: int, vocab_size: int | None) -> None:
        super().__init__()
        self.options = options
        self.max_segments = options.max_segments(length)
        self.wanted = options.mean_length if options.reads_entropy else None
        start = options.theta_bits if options.rule == "global" else options.delta_bits
        self.register_buffer("threshold", torch.tensor(float(start or 0)))
        self.register_buffer("round_sums", torch.zeros(2), persistent=False)
        self.register_buffer("spacelike", None)
        if options.rule == "space":
            if vocab_size is None or vocab_size < 256:
                raise ValueError(
                    "model.segmentation.rule=space reads bytes: it must be another one for levels "
                    "above the first (model.upper_segmentation) and for other tokenizers"
                )
            self.register_buffer("spacelike", spacelike_bytes(vocab_size), persistent=False)

    @torch.no_grad()
    def forward(
        self,
        symbols: Symbols,
        bits: Float[Tensor, "batch pos"] | None,
        state: SegmenterState,
    ) -> Cut:
        """The cut of `symbols`, which follow what `state` has seen; `state` moves on.

        Args:
            symbols: Real ones come first in each sequence.
            bits: H_t after each symbol, for the rules that read it.
            state: Of `init_state` at a sequence's first symbol.
        """
        length = symbols.positions.shape[1]
        if length == 0:
            none = symbols.positions
            return Cut(none, none, none, none, state.finished.clone())
        count = symbols.real.sum(1, keepdim=True)
        starts = self._starts(symbols, bits, state)
        index = torch.arange(starts.shape[1], device=starts.device)
        last = torch.where(starts, index, -state.since[:, None]).cummax(1).values
        since = index - last
        limit = self.options.max_length
        offset = since if limit is None else since % limit
        begun = state.begun[:, None] + (offset == 0).cumsum(1)
        segment = (begun - 1).clamp(max=self.max_segments - 1)
        shift = self.options.shift
        aim = segment[:, shift:]
        cut = Cut(
            segment[:, :length],
            aim,
            offset[:, shift:],
            offset[:, :length],
            state.finished.clone(),
        )
        if self.training and self.wanted is not None:
            segments = reached_by(cut.segment, symbols.real)
            self.round_sums += torch.stack([count.sum(), segments.sum()])
        # One place more than there are symbols: what the next one will find.
        reached = torch.cat([state.begun[:, None], begun], 1).gather(1, count)[:, 0]
        if shift:
            state.since = since.gather(1, count)[:, 0]
        else:
            after = torch.where(symbols.separator, 0, since + 1)
            state.since = torch.cat([state.since[:, None], after], 1).gather(1, count)[:, 0]
        state.begun = reached
        state.finished = torch.cat([state.finished[:, None], aim], 1).gather(1, count)[:, 0]
        if bits is not None:
            state.bits = torch.cat([state.bits[:, None], bits], 1).gather(1, count)[:, 0]
        return cut

    def _starts(
        self, symbols: Symbols, bits: Tensor | None, state: SegmenterState
    ) -> Bool[Tensor, "batch place"]:
        """Where the rule begins a segment; with shift 1, the place after the last symbol too."""
        fires = self._fires(symbols, bits, state)
        nothing = torch.zeros_like(symbols.separator[:, :1])
        if self.options.shift:  # the first place is in state.since
            return torch.cat([nothing, fires | symbols.separator], 1)
        return fires | torch.cat([nothing, symbols.separator[:, :-1]], 1)

    def _fires(
        self, symbols: Symbols, bits: Tensor | None, state: SegmenterState
    ) -> Bool[Tensor, "batch pos"]:
        rule = self.options
        if rule.rule == "fixed":
            return torch.zeros_like(symbols.real)
        if rule.rule == "space":
            assert symbols.tokens is not None
            assert self.spacelike is not None
            found = self.spacelike[symbols.tokens]
            before = torch.cat([state.spacelike[:, None], found[:, :-1]], 1)
            state.spacelike = found[:, -1]
            return found & ~before
        assert bits is not None
        if rule.rule == "global":
            return bits > self.threshold
        high = torch.zeros_like(symbols.real)
        if rule.rule == "both" and rule.theta_bits is not None:
            high = bits > rule.theta_bits
        before = torch.cat([state.bits[:, None], bits[:, :-1]], 1)
        return high | ((bits > before + self.threshold) & (before > -torch.inf))

    @torch.no_grad()
    def end_round(self, skip: Bool[Tensor, ""]) -> None:
        """Move the threshold towards the wanted length; with `skip` only forget the round."""
        if self.wanted is None:
            return
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.round_sums)
        symbols, segments = self.round_sums
        found = symbols / segments.clamp(min=1)
        step = RATE * (self.wanted / found.clamp(min=1)).log()
        self.threshold += torch.where(skip | (segments == 0), 0, step)
        self.round_sums.zero_()

    def init_state(self, batch: int, device: torch.device) -> SegmenterState:
        nothing = torch.zeros(batch, dtype=torch.int64, device=device)
        return SegmenterState(
            nothing,
            nothing,
            nothing,
            torch.full((batch,), -torch.inf, device=device),
            nothing.bool(),
        )


def reached_by(
    segment: Int[Tensor, "batch pos"], real: Bool[Tensor, "batch pos"]
) -> Int[Tensor, " batch"]:
    """Number of segments that have a real symbol."""
    return torch.where(real, segment, -1).amax(1) + 1


def spacelike_bytes(vocab_size: int) -> Bool[Tensor, " vocab"]:
    """Bytes that are no letter, no digit and no later part of a character: words end with them.

    As in SpaceByte (Slagle 2024, arXiv:2404.14408), the first byte of a character beyond ASCII is
    one of them. Ids beyond 255 are not.
    """
    letters = [c for c in range(128) if chr(c).isalnum()]
    table = torch.ones(vocab_size, dtype=torch.bool)
    table[letters] = False
    table[128:192] = False  # continuation bytes of UTF-8
    table[256:] = False
    return table
