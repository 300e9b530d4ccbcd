"""A checkpoint in one of the published layouts, where these can hold its model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np

from crystalline.contract import LanguageModel
from crystalline.errors import UserError
from crystalline.export import published_v1, published_v2
from crystalline.export.fitting import cut, vocabulary_tensors

Layout = Literal["v1", "v2"]
PRECISIONS: dict[str, tuple[str, ...]] = {
    "v1": tuple(published_v1.PRECISIONS),
    "v2": published_v2.PRECISIONS,
}
"""That each layout knows."""


def published(
    model: LanguageModel, layout: Layout, precision: str, occurring: Collection[int] | None
) -> bytes:
    """The file of a model.

    Args:
        model: Living neurons alone.
        layout: Which one.
        precision: One of `PRECISIONS[layout]`.
        occurring: Ids of tokens to keep, exactly these; None: all.

    Raises:
        UserError: If the layout cannot hold the model.
    """
    num_heads = _heads(model, layout)
    weights = model.state_dict()
    if occurring is not None:
        weights = cut(weights, vocabulary_tensors(model), sorted(occurring))
    tensors = {name: np.asarray(value.cpu()) for name, value in weights.items()}
    neutral = {"scale": 1, "log_mass": 0}
    for name, value in neutral.items():
        if (tensors[f"blocks.0.field.{name}"] != value).any():
            raise _unable(layout, f"neurons whose {name} is not {value}")
    pruned = occurring is not None
    if layout == "v1":
        return published_v1.to_v1(tensors, precision=precision, pruned=pruned)
    return published_v2.to_v2(tensors, num_heads, precision=precision, pruned=pruned)


def _heads(model: LanguageModel, layout: Layout) -> int:
    """Heads of the model's attention.

    Raises:
        UserError: If the model differs from what the layout means.
    """
    facts = model.runtime_metadata()
    if facts is None:
        raise _unable(layout, f"a model such as this {type(model).__name__}")
    reasons = {
        "more than one block": facts["num_layers"] != 1,
        "a field without the slot of value 0": "null_logit" not in facts,
        "widths by softplus": facts["width"] != "abs",
        "a factor on widths": facts["width_factor"] != 1.0,
        "a norm before the head": bool(facts["final_norm"]),
        "a head without a bias": not facts["head_bias"],
        "attention": layout == "v1" and bool(facts["num_heads"]),
    }
    for reason, applies in reasons.items():
        if applies:
            raise _unable(layout, reason)
    return int(facts["num_heads"])


def _unable(layout: str, what: str) -> UserError:
    return UserError(f"layout={layout} cannot hold {what}; take layout=crystal")
