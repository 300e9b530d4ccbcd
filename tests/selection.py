"""Which cases of a test run in CI, where all of them would take too long."""

from collections.abc import Iterable
from typing import Any

import pytest


def often(names: Iterable[str], *kept: str) -> list[Any]:
    """All `names` as parameters; those not in `kept` are marked slow."""
    return [name if name in kept else pytest.param(name, marks=pytest.mark.slow) for name in names]
