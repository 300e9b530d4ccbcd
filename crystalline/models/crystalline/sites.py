"""Where bottlenecks stand, what kind they are, and how a vector is cut into groups for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Edits
from crystalline.layers.parts import Parts
from crystalline.quantizers.bottlenecks import (
    Bottleneck,
    BottleneckOutput,
    CodebookFeatures,
    CrystallineBottleneck,
    SourceBottleneck,
    Temperature,
)
from crystalline.quantizers.bottlenecks.base import Aggregate
from crystalline.quantizers.bottlenecks.crystalline import Estimator
from crystalline.quantizers.bottlenecks.source import ClampedTemperature
from crystalline.quantizers.bottlenecks.temperature import Scope

Mode = Literal["crystalline", "codebook_features", "source"]
PLACES = ("attn_pre", "attn_post", "mlp", "block")


@dataclass(frozen=True)
class Sites:
    """Where bottlenecks stand.

    Raises:
        ValueError: If a place is unknown.
    """

    places: Sequence[str] = ("attn_pre", "mlp")
    """attn_pre: what each head has read, before the output map; attn_post, mlp: what attention and
    MLP write, before it is added; block: the stream after the block."""
    groups: int = 1
    """Into which attn_post, mlp and block are cut; attn_pre has a group for each head."""
    layers: Sequence[int] | None = None
    """Layers that have bottlenecks; None for all."""
    output_rms: float = 0.02
    """Root mean square of what attn_post, mlp and block write at the start, about as without a
    bottleneck: vectors as long as normalised ones would drown the embedding. attn_pre, which a map
    follows, starts at 1."""

    def __post_init__(self) -> None:
        unknown = [place for place in self.places if place not in PLACES]
        if unknown:
            raise ValueError(f"sites.places must be among {', '.join(PLACES)}, got {unknown[0]!r}")


@dataclass(frozen=True)
class Selection:
    """How bottlenecks choose; see `CrystallineBottleneck` and `Temperature`."""

    estimator: Estimator = "hybrid"
    noise: bool = True
    aggregate: Aggregate = "mean"
    """Also of mode codebook_features."""
    temp_scope: Scope = "layer"
    temp_max: float = 5.0
    usage_weight: float = 1.0
    usage_floor: float = 1.0


@dataclass
class Trace:
    """What the sites of one block are asked in a forward pass and have answered.

    Names are those within the block, so that code compiled for one block serves all.
    """

    edits: Edits
    entropy: bool
    answers: dict[str, BottleneckOutput] = field(default_factory=dict)

    @classmethod
    def of(cls, block: str, edits: Edits | None, entropy: bool) -> Trace:
        """With the edits of the sites below `block`."""
        start = f"{block}."
        own = {
            site.removeprefix(start): edit
            for site, edit in (edits or {}).items()
            if site.startswith(start)
        }
        return cls(own, entropy)


def mean_losses(answers: Iterable[BottleneckOutput]) -> dict[str, Tensor]:
    """Every auxiliary loss, averaged over the sites."""
    found: dict[str, list[Tensor]] = {}
    for answer in answers:
        for name, value in answer.losses.items():
            found.setdefault(name, []).append(value)
    return {name: torch.stack(values).mean() for name, values in found.items()}


class GroupedBottleneck(nn.Module):
    """A bottleneck for each of G equal parts of a vector, their temperature and their gains."""

    def __init__(
        self,
        d_model: int,
        num_groups: int,
        build: Callable[[int], Bottleneck],
        build_temperature: Callable[[int, int], nn.Module],
        gain: float | None,
    ) -> None:
        super().__init__()
        if d_model % num_groups:
            raise ValueError(f"sites.groups must divide d_model, got {num_groups} and {d_model}")
        width = d_model // num_groups
        self.group: Parts[Bottleneck] = Parts(build(width) for _ in range(num_groups))
        self.temperature: Any = build_temperature(num_groups, width)
        self.gain = None if gain is None else nn.Parameter(torch.full((num_groups,), gain))

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        trace: Trace,
        name: str,
        positions: Int[Tensor, " pos"],
    ) -> Float[Tensor, "batch pos d_model"]:
        """The parts' codes times their gains; answers go to the trace as `<name>.group.<g>`."""
        parts = x.unflatten(-1, (len(self.group), -1))
        temperature = self.temperature(parts)
        out = []
        for index, book in enumerate(self.group):
            site = f"{name}.group.{index}"
            answer = book(
                parts[..., index, :], temperature[..., index],
                override=trace.edits.get(site), positions=positions, entropy=trace.entropy,
            )  # fmt: skip
            trace.answers[site] = answer
            out.append(answer.quantized)
        written = torch.stack(out, -2)
        if self.gain is not None:
            written = written * self.gain[:, None].to(written.dtype)
        return written.flatten(-2)


def builder(
    mode: Mode,
    codebook_size: int,
    num_codes_k: int,
    temp_init: float,
    temp_min: float,
    selection: Selection,
) -> Callable[[int, int, float], GroupedBottleneck]:
    """Builds the bottlenecks of a mode from (d_model, num_groups, gain at the start).

    Raises:
        ValueError: If the mode is unknown, or a temperature is to be learned without a gradient.
    """
    choice = selection
    learned = choice.temp_scope in ("layer", "head", "position")
    if mode == "crystalline" and learned and choice.estimator in ("input_ste", "rotation"):
        raise ValueError(
            f"selection.estimator={choice.estimator} has no gradient for a learned temperature: "
            "set selection.temp_scope to fixed or annealed, or the estimator to hybrid"
        )

    def crystalline(width: int) -> Bottleneck:
        return CrystallineBottleneck(
            width, codebook_size, num_codes_k, aggregate=choice.aggregate,
            estimator=choice.estimator, noise=choice.noise,
            usage_weight=choice.usage_weight, usage_floor=choice.usage_floor,
        )  # fmt: skip

    def features(width: int) -> Bottleneck:
        return CodebookFeatures(width, codebook_size, num_codes_k, aggregate=choice.aggregate)

    def source(width: int) -> Bottleneck:
        return SourceBottleneck(width, codebook_size, num_codes_k)

    def warm(num_groups: int, width: int) -> nn.Module:
        return Temperature(
            num_groups, width, scope=choice.temp_scope, init=temp_init, minimum=temp_min,
            maximum=choice.temp_max,
        )  # fmt: skip

    def constant(num_groups: int, width: int) -> nn.Module:
        return Temperature(num_groups, width, scope="fixed", init=1.0, minimum=0.5)

    def clamped(num_groups: int, width: int) -> nn.Module:
        return ClampedTemperature(temp_init, temp_min)

    kinds: Mapping[str, tuple[Callable[[int], Bottleneck], Callable[[int, int], nn.Module]]] = {
        "crystalline": (crystalline, warm),
        "codebook_features": (features, constant),
        "source": (source, clamped),
    }
    if mode not in kinds:
        raise ValueError(f"model.mode must be one of {', '.join(kinds)}, got {mode!r}")
    build, build_temperature = kinds[mode]
    return lambda d_model, num_groups, gain: GroupedBottleneck(
        d_model, num_groups, build, build_temperature,
        None if mode == "source" else gain,  # which has one of its own
    )  # fmt: skip
