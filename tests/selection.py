"""Which cases of a test run in CI, where all of them would take too long."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def often(names: Iterable[Any], *kept: Any) -> list[Any]:
    """All `names` as parameters; those not in `kept` are marked slow."""
    return [name if name in kept else pytest.param(name, marks=pytest.mark.slow) for name in names]


def every_third(cases: Sequence[Any]) -> list[Any]:
    """All `cases`, tuples of several arguments; two of three that follow each other are slow."""
    slow = pytest.mark.slow
    return [c if n % 3 == 0 else pytest.param(*c, marks=slow) for n, c in enumerate(cases)]
