"""Where a trained model is read and written: what its heads have read, what its parts write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from crystalline.layers.attention import CausalSelfAttention
from crystalline.layers.mlp import MLP
from crystalline.models.crystalline.sites import PLACES

Meet = Callable[[str, Tensor], Tensor | None]
"""`meet(name, vectors)`: what goes on in place of the vectors that pass; None for the same."""


@dataclass(frozen=True)
class Sites:
    """Where autoencoders stand, in the words of `models.crystalline.Sites`.

    Raises:
        ValueError: If a place is unknown or there is none.
    """

    places: Sequence[str] = ("attn_pre", "mlp")
    """attn_pre: what each head has read, before the output map; attn_post, mlp: what attention and
    MLP write, before it is added; block: the stream after the block."""
    groups: int = 1
    """Into which attn_post, mlp and block are cut; attn_pre has a group for each head."""
    layers: Sequence[int] | None = None
    """Layers that have autoencoders; None for all."""

    def __post_init__(self) -> None:
        unknown = [place for place in self.places if place not in PLACES]
        if unknown or not self.places:
            raise ValueError(
                f"sites.places must be some of {', '.join(PLACES)}, got {list(self.places)}"
            )


@dataclass(frozen=True)
class Point:
    """A place of one block."""

    module: nn.Module
    reads: bool
    """Whether the vectors are the module's input; else they are its output."""
    width: int
    heads: int | None = None
    """Parts that the vectors have by themselves."""

    def attach(self, meet: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call `meet` with what passes, until the handle is removed."""

        def before(_: nn.Module, inputs: tuple[Any, ...]) -> Any:
            return meet(inputs[0])

        def after(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
            if not isinstance(output, Tensor):
                raise ValueError("sites.places: blocks of model.base write more than the stream")
            return meet(output)

        if self.reads:
            return self.module.register_forward_pre_hook(before)
        return self.module.register_forward_hook(after)


def points_of(block: nn.Module) -> dict[str, Point]:
    """The places of a block that has one attention and one MLP, or one of them."""
    parts = list(block.modules())
    attention = [part for part in parts if isinstance(part, CausalSelfAttention)]
    feedforward = [part for part in parts if isinstance(part, MLP)]
    found: dict[str, Point] = {}
    if len(attention) == 1:
        out = attention[0].out
        found["attn_pre"] = Point(out, True, out.in_features, attention[0].num_heads)
        found["attn_post"] = Point(attention[0].dropout, False, out.out_features)
    if len(feedforward) == 1:
        found["mlp"] = Point(feedforward[0], False, feedforward[0].down.out_features)
    if found:
        found["block"] = Point(block, False, next(iter(found.values())).width)
    return found


@contextmanager
def met(points: Mapping[str, Point], meet: Meet) -> Iterator[None]:
    """Inside the block, `meet` sees what passes every point."""

    def at(name: str) -> Callable[[Tensor], Tensor | None]:
        return lambda vectors: meet(name, vectors)

    handles = [point.attach(at(name)) for name, point in points.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
