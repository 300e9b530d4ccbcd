"""One line about a vocabulary-space model, to set beside those of others."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

from crystalline.interpret.word_updates import REMAINDER, START


def scores(found: dict[str, Any]) -> dict[str, float]:
    """Means of the tables.

    Args:
        found: What `crystalline.words` has read, with `loss`, `lens`, `parts`, `maps`, `programs`
            and `tests`.

    Returns:
        `lens_kl`: KL to the output, over depths before the last, nats. `settled`: mean depth at
        which the likeliest word is the output's for good, as a share of all. `next_rank`,
        `copy_rank`: medians of the last state. `breadth`: words that an update pushes.
        `remainder`: share of what is read that no part wrote. `pmi`: rank correlation of what maps
        push with the text's pairs. `selectivity`: of choices. `faithful`: correlation of predicted
        and measured changes, of words and in rotated coordinates; `moved`: words that a change of
        one coordinate moves. NaN where there is nothing to average.
    """
    depths = found["lens"][found["readout"]]
    parts = {row["part"]: row for row in found["parts"]}
    own = [row for name, row in parts.items() if name not in (START, REMAINDER)]
    last = max(len(depths) - 1, 1)  # the start itself may be all that a control has
    after = [row["settled"] for row in depths]
    tests = {
        kind: [row for row in found["tests"] if row["coordinates"] == kind]
        for kind in ("words", "rotated")
    }
    return {
        "loss": found["loss"],
        "lens_kl": _mean(row["kl"] for row in depths[:-1]),
        # Mean of a depth from the shares that have settled by each: sum over d of P(depth > d).
        "settled": sum(1 - share for share in after) / last,
        "next_rank": depths[-1]["next_rank"],
        "copy_rank": depths[-1]["copy_rank"],
        "breadth": _mean(row["breadth"] for row in own),
        "remainder": parts[REMAINDER]["share"] if REMAINDER in parts else 0.0,
        "pmi": _mean(row["pmi"] for row in found["maps"] if row["gap"] > 0),
        "selectivity": _mean(row["selectivity"] for row in found["programs"]),
        "faithful": _mean(row["faithful"] for row in tests["words"]),
        "faithful_rotated": _mean(row["faithful"] for row in tests["rotated"]),
        "moved": _mean(row["breadth"] for row in tests["words"]),
        "moved_rotated": _mean(row["breadth"] for row in tests["rotated"]),
    }


def _mean(values: Iterable[float]) -> float:
    """Of the numbers among them."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan
