"""Where bottlenecks stand and what kind they are: the options, and what is built of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from crystalline.quantizers.bottlenecks import (
    CodebookFeatures,
    CrystallineBottleneck,
    GaussianNoise,
    SourceBottleneck,
    Temperature,
)
from crystalline.quantizers.bottlenecks.base import Aggregate
from crystalline.quantizers.bottlenecks.crystalline import Estimator
from crystalline.quantizers.bottlenecks.grouped import GroupedBottleneck
from crystalline.quantizers.bottlenecks.prior import Prior
from crystalline.quantizers.bottlenecks.source import ClampedTemperature
from crystalline.quantizers.bottlenecks.temperature import Scope
from crystalline.quantizers.codebook import Update

PLACES = ("attn_pre", "attn_post", "mlp", "block")
GATES = ("none", "learned")
OUTPUT_RMS = {"attn_pre": 0.1, "attn_post": 0.02, "mlp": 0.02, "block": 0.02}

Build = Callable[[int, int, float, Prior | None], GroupedBottleneck]
"""(d_model, num_groups, gain at the start, prior)."""


@dataclass(frozen=True)
class Sites:
    """Where bottlenecks stand.

    Raises:
        ValueError: If a place or the kind of gate is unknown, a root mean square is not positive, a
            prior is none, or a corruption lies outside [0, 1].
    """

    places: Sequence[str] = ("attn_pre", "mlp")
    """attn_pre: what each head has read, before the output map; attn_post, mlp: what attention and
    MLP write, before it is added; block: the stream after the block."""
    groups: int = 1
    """Into which attn_post, mlp and block are cut; attn_pre has a group for each head."""
    layers: Sequence[int] | None = None
    """Layers that have bottlenecks; None for all."""
    output_rms: Mapping[str, float] = field(default_factory=dict)
    """By place: root mean square of what is written at the start; see `OUTPUT_RMS` for places that
    are not named. About what is written without a bottleneck: vectors as long as normalised ones
    would drown the embedding, and heads do so through the output map that follows them."""
    prior_weight: Mapping[str, float] = field(default_factory=dict)
    """By place: cosine that a nat of code length costs; see `UsagePrior`. Places that are not named
    have no prior."""
    prior_layers: Sequence[int] | None = None
    """Layers that have these priors; None for all."""
    prior_start: float = 0.0
    """Share of training from which on these priors grow; see `Prior`."""
    prior_share: float = 1.0
    """Of a book's choices: a code that has it is favoured over none that has more."""
    corruption: Mapping[str, float] = field(default_factory=dict)
    """By place: share of positions at which, in training, another sequence's vector is written. So
    no layer can rely on what one other says."""
    warmup: float = 0.0
    """Share of training over which codes fade in, beside what they stand for."""
    gate: str = "none"
    """"learned": each group mixes its codes with what they stand for; see `GroupedBottleneck`."""

    def __post_init__(self) -> None:
        for name in ("places", "output_rms", "prior_weight", "corruption"):
            unknown = [place for place in getattr(self, name) if place not in PLACES]
            if unknown:
                raise ValueError(
                    f"sites.{name} must be among {', '.join(PLACES)}, got {unknown[0]!r}"
                )
        for place, rms in self.output_rms.items():
            if rms <= 0:
                raise ValueError(f"sites.output_rms.{place} must be positive, got {rms}")
        for weight in self.prior_weight.values():
            self._prior(weight)
        for place, share in self.corruption.items():
            if not 0 <= share <= 1:
                raise ValueError(f"sites.corruption.{place} must lie in [0, 1], got {share}")
        if self.gate not in GATES:
            raise ValueError(f"sites.gate must be {' or '.join(GATES)}, got {self.gate!r}")

    def gain(self, place: str) -> float:
        """Of what a place writes, at the start."""
        return float((OUTPUT_RMS | dict(self.output_rms))[place])

    def prior(self, place: str) -> Prior | None:
        """Of a place, where it has one."""
        weight = self.prior_weight.get(place, 0.0)
        return self._prior(weight) if weight else None

    def _prior(self, weight: float) -> Prior:
        return Prior(weight, self.prior_start, self.prior_share)

    def at(self, layer: int) -> Sites:
        """What stands in one layer."""
        if self.layers is not None and layer not in self.layers:
            return replace(self, places=())
        if self.prior_layers is not None and layer not in self.prior_layers:
            return replace(self, prior_weight={})
        return self


@dataclass(frozen=True)
class Selection:
    """How bottlenecks choose; see `CrystallineBottleneck` and `Temperature`.

    Raises:
        ValueError: If `update` is unknown here.
    """

    estimator: Estimator = "hybrid"
    noise: bool = True
    aggregate: Aggregate = "mean"
    """Also of mode codebook_features."""
    temp_scope: Scope = "layer"
    temp_max: float = 5.0
    usage_weight: float = 1.0
    usage_floor: float = 1.0
    update: Update = "gradient"
    """"frozen": codes stay as they were drawn. Of every mode; "ema" is not for bottlenecks."""
    budget: str = "position"
    """k codes at every "position", or on average over the "batch". Also of codebook_features."""
    distortion: float | None = None
    """Of mode noise, and needed there: root mean square error relative to what comes in."""

    def __post_init__(self) -> None:
        if self.update not in ("gradient", "frozen"):
            raise ValueError(f"selection.update must be gradient or frozen, got {self.update!r}")


def builder(
    mode: str,
    codebook_size: int,
    num_codes_k: int,
    temp_init: float,
    temp_min: float,
    selection: Selection,
    gated: bool,
    warmup: float,
) -> Build:
    """Builds the bottlenecks of a mode from (d_model, num_groups, gain at the start, prior).

    Raises:
        ValueError: If the mode is unknown, a temperature is to be learned without a gradient, or a
            mode lacks what is asked of it.
    """
    choice = selection
    learned = choice.temp_scope in ("layer", "head", "position")
    if mode == "crystalline" and learned and choice.estimator in ("input_ste", "rotation"):
        raise ValueError(
            f"selection.estimator={choice.estimator} has no gradient for a learned temperature: "
            "set selection.temp_scope to fixed or annealed, or the estimator to hybrid"
        )
    if mode == "source" and choice.budget != "position":
        raise ValueError("mode=source has no other selection.budget than position")
    if mode == "noise" and gated:
        raise ValueError("mode=noise has no codes that sites.gate=learned could mix with")

    def crystalline(width: int, prior: Prior | None) -> nn.Module:
        return CrystallineBottleneck(
            width, codebook_size, num_codes_k, aggregate=choice.aggregate,
            estimator=choice.estimator, noise=choice.noise,
            usage_weight=choice.usage_weight, usage_floor=choice.usage_floor,
            update=choice.update, budget=choice.budget, prior=prior,
        )  # fmt: skip

    def features(width: int, prior: Prior | None) -> nn.Module:
        return CodebookFeatures(
            width, codebook_size, num_codes_k,
            aggregate=choice.aggregate, update=choice.update, budget=choice.budget,
            prior=prior,
        )  # fmt: skip

    def source(width: int, _: Prior | None) -> nn.Module:
        return SourceBottleneck(width, codebook_size, num_codes_k, update=choice.update)

    def noise(width: int, _: Prior | None) -> nn.Module:
        return GaussianNoise(choice.distortion)

    def warm(num_groups: int, width: int) -> nn.Module:
        return Temperature(
            num_groups, width, scope=choice.temp_scope, init=temp_init, minimum=temp_min,
            maximum=choice.temp_max,
        )  # fmt: skip

    def constant(num_groups: int, width: int) -> nn.Module:
        return Temperature(num_groups, width, scope="fixed", init=1.0, minimum=0.5)

    def clamped(num_groups: int, width: int) -> nn.Module:
        return ClampedTemperature(temp_init, temp_min)

    kinds: Mapping[
        str, tuple[Callable[[int, Prior | None], nn.Module], Callable[[int, int], nn.Module]]
    ] = {
        "crystalline": (crystalline, warm),
        "codebook_features": (features, constant),
        "source": (source, clamped),
        "noise": (noise, constant),
    }
    if mode not in kinds:
        raise ValueError(f"model.mode must be one of {', '.join(kinds)}, got {mode!r}")
    build, build_temperature = kinds[mode]
    return lambda d_model, num_groups, gain, prior: GroupedBottleneck(
        d_model, num_groups, lambda width: build(width, prior), build_temperature,
        None if mode == "source" else gain,  # which has one of its own
        gated,
        warmup,
    )  # fmt: skip
