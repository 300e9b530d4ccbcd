"""What a suite is made of: cases, in which contestants do the same work on the same data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from crystalline.benchmark.timing import Contestant, Measurement, measure


class Case(ABC):
    """One problem of one size; an entry of a suite in conf/suite."""

    devices: Sequence[str]
    """Kinds of device ("cpu", "cuda") it runs on when it is not named."""
    baseline: ClassVar[str]
    """The contestant that ratios refer to."""
    packages: ClassVar[Sequence[str]]
    """Distributions beside torch that figures depend on."""

    @property
    @abstractmethod
    def title(self) -> str:
        """The problem in words and numbers."""

    @abstractmethod
    def contestants(self, device: torch.device) -> dict[str, Contestant]:
        """By name, on equal data; who cannot take part raises `UnavailableError` when called."""

    @abstractmethod
    def reference(self, device: torch.device) -> Tensor:
        """What every contestant's first call should give back, by an exact way to it."""


@dataclass(frozen=True)
class Row:
    """One contestant in one case; None where there is no such figure."""

    case: str
    contestant: str
    median_ms: float | None
    q1_ms: float | None
    """A quarter of the calls took less."""
    q3_ms: float | None
    """A quarter of the calls took more."""
    times_faster: float | None
    """The baseline's median over this one's."""
    peak_mib: float | None
    """Most memory held at once during a call, beyond data and parameters."""
    times_smaller: float | None
    """The baseline's peak over this one's."""
    agreement: float | None
    """Share of the choices that equal the reference's."""
    calls: int
    """How many were timed."""
    note: str
    """Why there are no figures."""


def compare(
    name: str, case: Case, device: torch.device, *, warmup: int, repeats: int, limit_s: float
) -> list[Row]:
    """A row for each contestant; see `measure` for the numbers that steer it."""
    reference = case.reference(device)
    measured = measure(
        case.contestants(device), device, warmup=warmup, repeats=repeats, limit_s=limit_s
    )
    base = measured[case.baseline]
    return [_row(name, who, found, base, reference) for who, found in measured.items()]


def _row(
    case: str, contestant: str, found: Measurement, base: Measurement, reference: Tensor
) -> Row:
    median_ms = found.quantile_ms(0.5)
    agreement = None
    if found.answer is not None:
        agreement = float((found.answer == reference).double().mean())
    return Row(
        case,
        contestant,
        median_ms,
        found.quantile_ms(0.25),
        found.quantile_ms(0.75),
        _ratio(base.quantile_ms(0.5), median_ms),
        found.peak_mib,
        _ratio(base.peak_mib, found.peak_mib),
        agreement,
        len(found.times_ms),
        found.note,
    )


def _ratio(base: float | None, own: float | None) -> float | None:
    return base / own if base is not None and own else None
