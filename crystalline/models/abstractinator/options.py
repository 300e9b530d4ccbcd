"""Options of the parts, as a configuration states them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rule = Literal["relative", "global", "both", "space", "fixed"]
Head = Literal["categorical", "gaussian"]


@dataclass(frozen=True)
class EntropyOptions:
    """The small model whose surprise decides where segments end.

    Raises:
        ValueError: If `head` is unknown or a size is not positive.
    """

    d_model: int = 64
    num_layers: int = 2
    num_heads: int = 4
    window: int = 32
    """Positions before its own that a layer sees."""
    head: Head = "categorical"
    """"categorical": the entropy of the next symbol, in bits. "gaussian": the differential entropy
    of the next symbol's vector, in bits a channel; the only one there is where levels above the
    first read vectors that were not quantized."""

    def __post_init__(self) -> None:
        _positive("model.entropy", d_model=self.d_model, num_layers=self.num_layers)
        _positive("model.entropy", window=self.window)
        _one_of("model.entropy.head", self.head, ("categorical", "gaussian"))


@dataclass(frozen=True)
class Segmentation:
    """Where segments end.

    With H_t the entropy of the next symbol after position t, in bits, a segment ends after t if

        relative: H_t > H_{t-1} + delta_bits
        global:   H_t > theta_bits
        both:     either
        space:    byte t is neither letter, digit nor part of one, and byte t - 1 is
        fixed:    every `max_length` symbols

    and in any case after `max_length` symbols and after the separator of documents.

    Raises:
        ValueError: If the rule is unknown or lacks its number.
    """

    rule: Rule
    delta_bits: float = 0.29
    """Of rule relative: 0.2 nats."""
    theta_bits: float | None = None
    max_length: int | None = 16
    """Symbols of the longest segment; None: no limit."""
    shift: Literal[0, 1] = 1
    """1: what is hard to foretell begins a segment. 0: the symbol before it does (as the seed's
    code; the cut is then known one symbol later)."""
    min_mean_length: float = 3.0
    """Symbols a segment, over a whole context, that there is room for: segments beyond context /
    min_mean_length are joined to the last one."""
    mean_length: float | None = None
    """Symbols a segment that training aims at, by moving `delta_bits`, or of global
    `theta_bits`, which are where it starts; None: they stay, as the other rules do."""

    def __post_init__(self) -> None:
        _one_of(
            "model.segmentation.rule", self.rule, ("relative", "global", "both", "space", "fixed")
        )
        if self.rule in ("global", "both") and self.theta_bits is None:
            raise ValueError(f"model.segmentation.theta_bits must be given for rule={self.rule}")
        if self.rule == "fixed" and self.max_length is None:
            raise ValueError("model.segmentation.max_length must be given for rule=fixed")
        if self.max_length is not None:
            _positive("model.segmentation", max_length=self.max_length)
        if self.mean_length is not None and self.mean_length <= 1:
            raise ValueError(
                f"model.segmentation.mean_length must be null or above 1, got {self.mean_length}"
            )
        if self.shift not in (0, 1):
            raise ValueError(f"model.segmentation.shift must be 0 or 1, got {self.shift}")
        if self.min_mean_length < 1:
            raise ValueError(
                f"model.segmentation.min_mean_length must be at least 1, got {self.min_mean_length}"
            )

    @property
    def reads_entropy(self) -> bool:
        """Whether an entropy model is needed."""
        return self.rule in ("relative", "global", "both")

    def max_segments(self, length: int) -> int:
        """Segments that a sequence of `length` symbols may have."""
        return min(length, int(-(-length // self.min_mean_length)))


@dataclass(frozen=True)
class EncoderOptions:
    """What a segment's vector is made by.

    Raises:
        ValueError: If a size is not positive.
    """

    num_layers: int = 1
    window: int = 32
    """Positions before its own that a layer sees."""
    segment_local: bool = False
    """Whether it sees its own segment alone, so that equal segments have equal codes."""
    num_queries: int = 1
    """Learned queries a segment; what they read, side by side, becomes its one vector."""

    def __post_init__(self) -> None:
        _positive("model.encoder", num_layers=self.num_layers, window=self.window)
        _positive("model.encoder", num_queries=self.num_queries)


@dataclass(frozen=True)
class ExpanderOptions:
    """What predicts the symbols of a segment.

    Raises:
        ValueError: If a size is not positive.
    """

    num_layers: int = 3
    window: int | None = None
    """Positions before its own that a layer sees; None: all."""
    segment_local: bool = False
    """Whether it sees none before the one that its segment is first foretold from, so that all else
    it knows of the past comes from segments."""
    lookback: int = 1
    """Finished segments before its own whose vectors it reads."""

    def __post_init__(self) -> None:
        _positive("model.expander", num_layers=self.num_layers, window=self.window or 1)
        if self.lookback < 0:
            raise ValueError(f"model.expander.lookback must be 0 or more, got {self.lookback}")


@dataclass(frozen=True)
class TopOptions:
    """The language model over the topmost segments.

    Raises:
        ValueError: If a size is not positive.
    """

    d_model: int = 128
    num_layers: int = 2
    num_heads: int = 4

    def __post_init__(self) -> None:
        _positive("model.top", d_model=self.d_model, num_layers=self.num_layers)


def check_mode(
    mode: str, quantize: bool, segmentation: Segmentation, top_lm: float, expansion: float
) -> None:
    """What mode discrete cannot do without.

    Raises:
        ValueError: If it is asked to, or the mode is unknown.
    """
    _one_of("model.mode", mode, ("latent_conditioning", "discrete"))
    if mode == "latent_conditioning":
        return
    if not quantize:
        raise ValueError("model.quantize must be true in mode discrete: codes are all that it says")
    if segmentation.shift != 1:
        raise ValueError(
            "model.segmentation.shift must be 1 in mode discrete: the code of a segment comes "
            "before its first symbol"
        )
    if min(top_lm, expansion) <= 0:
        raise ValueError(
            "model.lambda_top_lm and model.lambda_expansion must be above 0 in mode discrete"
        )


def _positive(group: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{group}.{name} must be at least 1, got {value}")


def _one_of(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{key} must be {', '.join(choices[:-1])} or {choices[-1]}, got {value!r}")
