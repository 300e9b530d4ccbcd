"""What a model makes of context: what single tokens cost it after windows of every length."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from crystalline.contract import LanguageModel
from crystalline.eval_mode import evaluating
from crystalline.metrics.ngram import NGram

Values = Float[np.ndarray, " targets"]
"""float64, a number for each target."""


@dataclass(frozen=True)
class Targets:
    """Tokens of some texts that are to be predicted, each after at least one other."""

    texts: Integer[np.ndarray, "texts pos"]
    """Ids; a text knows nothing of the one before."""
    rows: Int[np.ndarray, " targets"]
    """In which text each target stands."""
    places: Int[np.ndarray, " targets"]
    """Where, from 1 on."""

    @classmethod
    def spread(
        cls,
        texts: Integer[np.ndarray, "texts pos"],
        count: int,
        seed: int,
        scored: Bool[np.ndarray, "texts pos-1"] | None = None,
    ) -> Targets:
        """At most `count`: one from each of so many equal parts of all the texts, at random.

        Args:
            texts: Ids; those that are never scored may be anything where nothing follows them.
            count: Of targets.
            seed: Decides which.
            scored: Whether each token but the first of a text may be a target; None: all may.
        """
        following = texts.shape[1] - 1
        total = len(texts) * following if scored is None else int(scored.sum())
        count = min(count, total)
        ends = np.arange(count + 1) * total // count
        numbers = np.random.default_rng(seed).integers(ends[:-1], ends[1:])
        if scored is not None:
            numbers = np.flatnonzero(scored)[numbers]
        return cls(texts, numbers // following, numbers % following + 1)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def ids(self) -> Int[np.ndarray, " targets"]:
        """The tokens themselves, int64."""
        return self.texts[self.rows, self.places].astype(np.int64)

    @property
    def ids_before(self) -> Int[np.ndarray, " targets"]:
        """The token before each, int64."""
        return self.texts[self.rows, self.places - 1].astype(np.int64)

    def seen(self, window: int, alignment: int = 1) -> Int[np.ndarray, " targets"]:
        """How many tokens a window holds: fewer than asked for at the beginning of a text alone.

        One that starts at a multiple of `alignment`, counted from the text's beginning, holds up to
        alignment - 1 more.
        """
        starts = np.maximum(self.places - window, 0) // alignment * alignment
        return self.places - starts

    def measured(
        self,
        measure: Callable[[Int[np.ndarray, "batch pos"]], Float[np.ndarray, " batch"]],
        window: int,
        alignment: int = 1,
        batch_size: int = 2**14,
    ) -> Values:
        """A number for each target, of rows that hold its window and then the target itself."""
        found, lengths = np.empty(len(self)), self.seen(window, alignment)
        for length in np.unique(lengths):  # rows of a batch are equally long: no padding
            which = np.flatnonzero(lengths == length)
            for part in np.array_split(which, math.ceil(len(which) / batch_size)):
                spans = self.places[part, None] + np.arange(-length, 1)
                found[part] = measure(self.texts[self.rows[part, None], spans].astype(np.int64))
        return found


def model_nats(model: LanguageModel, targets: Targets, window: int, batch_size: int) -> Values:
    """What each target costs the model (nats) if it sees the last `window` tokens alone.

    Every window is read by itself, from an empty state; where models want it, it starts at a
    multiple of their alignment. The model runs where it is.
    """
    device = next(model.parameters()).device

    def last(rows: Int[np.ndarray, "batch pos"]) -> Float[np.ndarray, " batch"]:
        tokens = torch.from_numpy(rows).to(device)
        return _last_nats(model, tokens[:, :-1].contiguous(), tokens[:, -1:]).double().cpu().numpy()

    with evaluating(model):
        return targets.measured(last, window, model.alignment, batch_size)


def _last_nats(
    model: LanguageModel, tokens: Int[Tensor, "batch pos"], wanted: Int[Tensor, "batch 1"]
) -> Float[Tensor, " batch"]:
    output = model(tokens)
    last = replace(output, hidden=output.hidden[:, -1:].contiguous())  # scores of the rest are dear
    return last.cross_entropy(wanted).nats[:, 0]


def ngram_nats(ngram: NGram, targets: Targets) -> Values:
    """What each target costs the n-gram after its last n - 1 tokens, nats."""

    def last(rows: Int[np.ndarray, "batch pos"]) -> Float[np.ndarray, " batch"]:
        return -np.log(ngram.probabilities(rows[:, :-1], rows[:, 1:])[:, -1])

    return targets.measured(last, max(1, ngram.order - 1))


def matches(ngram: NGram, targets: Targets) -> Int[np.ndarray, " targets"]:
    """How many of the tokens before each target, up to n - 1, the n-gram's text has in a row."""

    def last(rows: Int[np.ndarray, "batch pos"]) -> Float[np.ndarray, " batch"]:
        return ngram.matched(rows[:, :-1])[:, -1].astype(np.float64)

    return targets.measured(last, max(1, ngram.order - 1)).astype(np.int64)


def match_rows(
    matched: Int[np.ndarray, " targets"], model: Values, ngrams: dict[str, Values]
) -> list[dict[str, Any]]:
    """Mean nats of the model and the n-grams by length of the match that occurs; all of them last.

    Args:
        matched: Tokens.
        model: Nats of each target.
        ngrams: The same by name, the one that the model is compared with last.
    """
    lengths: list[int | str] = [*np.unique(matched).tolist(), "all"]
    rows = []
    for length in lengths:
        which = np.full(len(matched), True) if length == "all" else matched == length
        known = {name: values[which] for name, values in {"model": model, **ngrams}.items()}
        mean, low, high = interval(known["model"] - list(known.values())[-1])
        rows.append({
            "match": length,
            "targets": int(which.sum()),
            **{name: float(values.mean()) for name, values in known.items()},
            "difference": mean, "low": low, "high": high,
        })  # fmt: skip
    return rows


def interval(values: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """The mean, and where it lies in 95 % of cases (normal approximation); NaN for one value."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half
