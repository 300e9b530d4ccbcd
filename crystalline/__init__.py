"""Language models whose insides are discrete and readable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crystalline.checkpoint import Loaded as Loaded
    from crystalline.checkpoint import load as load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import; `import crystalline` must not.
    if name in {"load", "Loaded"}:
        from crystalline import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module 'crystalline' has no attribute {name!r}")
