"""A list of modules that knows what they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar, cast

from torch import nn

Part = TypeVar("Part", bound=nn.Module)


class Parts(nn.ModuleList, Generic[Part]):
    """`nn.ModuleList` for readers and type checkers: its parts have one type."""

    def __getitem__(self, index: int) -> Part:  # type: ignore[override]
        return cast(Part, super().__getitem__(index))

    def __iter__(self) -> Iterator[Part]:  # type: ignore[override]
        return cast("Iterator[Part]", super().__iter__())
