"""Annotations of tensors are executed by the tests: shapes, dtypes and plain types.

Options that must be one of a few words (`Literal`) are left to our own checks, whose errors name
the key and are tested; beartype would come first.
"""

from __future__ import annotations

from typing import Any, Literal

from beartype import BeartypeConf, FrozenDict, beartype

_OPTIONS: tuple[Any, ...] = (
    Literal["gradient", "ema", "frozen"],
    Literal["straight_through", "rotation", "none"],
    Literal["euclidean", "cosine"],
    Literal["dot", "cosine", "euclidean"],
    Literal["sum", "mean", "softmax"],
    Literal["cosine", "constant"],
    Literal["none", "bag", "codes"],
    Literal["none", "gate", "xattn"],
    Literal["add", "replace_mlp", "replace_stream", "none", "continuous"],
    Literal["source", "fixed"],
    Literal["count", "distinct", "purity"],
    Literal["hybrid", "gumbel_ste", "input_ste", "rotation", "soft"],
    Literal["layer", "head", "position", "fixed", "annealed"],
    Literal["mean", "sum"],
)

check = beartype(
    conf=BeartypeConf(
        hint_overrides=FrozenDict(dict.fromkeys(_OPTIONS, str)),
        is_pep484_tower=True,  # an int will do for a float
    )
)
