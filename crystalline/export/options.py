"""The keys of the command, checked before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from crystalline.errors import UserError
from crystalline.explain import suggest
from crystalline.export.model_file import Rounding
from crystalline.export.precisions import PRECISIONS
from crystalline.export.publishing import PRECISIONS as OF_LAYOUT
from crystalline.export.schemes import Clip

if TYPE_CHECKING:
    from omegaconf import DictConfig

SPLITS = ("val", "test", "train")
LAYOUTS = ("crystal", *OF_LAYOUT)
TARGETS = ("crystal", "c_source")
ALL = "all"


@dataclass(frozen=True)
class Options:
    """What is to be written."""

    precisions: tuple[str, ...]
    """One, or all of them."""
    compared: bool
    """Whether all are asked for."""
    only: str | None
    clip: Clip | None
    layout: str
    split: str | None
    target: str
    build: bool

    @classmethod
    def of(cls, config: DictConfig) -> Options:
        """The command's.

        Raises:
            UserError: If a value is unknown or contradicts another one.
        """
        _one_of("precision", config.precision, (*PRECISIONS, ALL))
        _one_of("layout", config.layout, LAYOUTS)
        _one_of("target", config.target, TARGETS)
        if config.split is not None:
            _one_of("split", config.split, SPLITS)
        if config.clip is not None:
            _one_of("clip", config.clip, get_args(Clip))
        compared = config.precision == ALL
        found = cls(
            tuple(PRECISIONS) if compared else (config.precision,), compared, config.only,
            config.clip, config.layout, config.split, config.target, bool(config.build),
        )  # fmt: skip
        found._check()
        return found

    def rounding(self, precision: str) -> Rounding:
        """Of one of `precisions`; `clip` is only for those that clip."""
        clips = PRECISIONS[precision].clip is not None
        return Rounding(precision, self.only, self.clip if clips else None)

    def _check(self) -> None:
        single = None if self.compared else self.precisions[0]
        if self.only is not None:
            try:
                re.compile(self.only)
            except re.error as error:
                raise UserError(f"only={self.only}: no regular expression: {error}") from None
        if self.clip and single and PRECISIONS[single].clip is None:
            raise UserError(f"clip={self.clip}: precision={single} clips nothing; take clip=null")
        if self.layout != "crystal":
            known = OF_LAYOUT[self.layout]
            if single not in known:
                raise UserError(f"layout={self.layout} knows precision={' | '.join(known)}")
            if self.only is not None:
                raise UserError(f"only: layout={self.layout} has no choice; take only=null")
        if self.compared and self.target == "c_source":
            raise UserError("target=c_source holds one model; name one precision")


def _one_of(key: str, value: Any, valid: Collection[str]) -> None:
    if value not in valid:
        raise UserError(f"{key}: no {value!r}{suggest(str(value), valid)}")
