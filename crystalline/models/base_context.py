"""What models on trained ones ask of those."""

from __future__ import annotations

from crystalline.contract import LanguageModel


def check_base_context(name: str, base: LanguageModel, context_length: int) -> None:
    """Refuse a context, in tokens, that the base of argument `name` cannot read.

    Raises:
        ValueError: If it is longer than the base's.
    """
    if context_length > base.context_length:
        raise ValueError(
            f"model.context_length={context_length}: model.{name} reads "
            f"{base.context_length} tokens"
        )
