"""What do fewer bits cost? Experiment E4 over the jobs of a sweep (spec section 10)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from crystalline.arms import arms, has_codes
from crystalline.errors import UserError
from crystalline.metrics.rank_correlation import spearman
from crystalline.results import BITS, Row, score
from crystalline.summary import read_summary

PERPLEXITY = "test/perplexity"


def frontier(
    rows: Sequence[Row], by: Sequence[str], tolerance: float, baseline: str | None
) -> dict[str, float | str]:
    """Every arm of a sweep beside the model without codes, and the fewest bits that cost little.

    Args:
        rows: The jobs.
        by: Keys whose settings make an arm; see `arms`.
        tolerance: The sweet spot is the arm of the lowest rate whose test perplexity is at most so
            many times the baseline's.
        baseline: Run folder of the model without codes; None takes the jobs of the sweep whose
            model has none. Without either there are no ratios.

    Returns:
        `ratio, <arm>`: test bits per byte (where there are none: loss) over the baseline's;
        `perplexity ratio, <arm>`; `bits, <arm>`: `test/code_bits` a token. Means over seeds.
        `sweet spot`: the arm, its `sweet spot bits`, `... perplexity ratio` and `... usage`.
        `bits and perplexity rho`: rank correlation over arms; -1 for a monotone frontier.

    Raises:
        UserError: If `baseline` has no summary.
    """
    found = arms([row for row in rows if has_codes(row)], by)
    plain = _baseline(rows, baseline)
    unit = f"test/{score([row.summary for row in [*rows, *plain]])}"
    figures: dict[str, float | str] = {}
    points: dict[str, tuple[float, float]] = {}
    for name, jobs in found.items():
        for key, figure in {"ratio": unit, "perplexity ratio": PERPLEXITY}.items():
            value, base = _mean(jobs, figure), _mean(plain, figure)
            if value is not None and base:
                figures[f"{key}, {name}"] = value / base
        bits, perplexity = _mean(jobs, BITS), _mean(jobs, PERPLEXITY)
        if bits is not None and perplexity is not None:
            figures[f"bits, {name}"] = bits
            points[name] = bits, perplexity
    if len(points) > 1:
        figures["bits and perplexity rho"] = spearman(*zip(*points.values(), strict=True))
    limit = _mean(plain, PERPLEXITY)
    cheap = [] if limit is None else [n for n, (_, p) in points.items() if p <= tolerance * limit]
    if cheap:
        best = min(cheap, key=lambda name: points[name][0])
        figures["sweet spot"] = best
        figures["sweet spot bits"] = points[best][0]
        figures["sweet spot perplexity ratio"] = figures[f"perplexity ratio, {best}"]
        usage = _mean(found[best], "codebook/usage")
        figures |= {} if usage is None else {"sweet spot usage": usage}
    return figures


def _baseline(rows: Sequence[Row], folder: str | None) -> list[Row]:
    if folder is None:
        return [row for row in rows if row.summary is not None and not has_codes(row)]
    try:
        return [Row(folder, {}, read_summary(Path(folder)), None)]
    except OSError as error:
        raise UserError(f"baseline={folder}: give the folder of a finished run") from error


def _mean(rows: Sequence[Row], figure: str) -> float | None:
    values = [value for row in rows if (value := row.value(figure)) is not None]
    return statistics.fmean(values) if values else None
