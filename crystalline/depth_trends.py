"""Do layers differ by depth? Experiment E3 over the jobs of a sweep (spec section 10)."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence

from crystalline.arms import arms
from crystalline.metrics.rank_correlation import difference_p, same_sign, spearman, trend_p
from crystalline.results import Row


def depth_trends(
    rows: Sequence[Row], by: Sequence[str], quantities: Sequence[str], control: str
) -> dict[str, float]:
    """Rank correlation of depth and what each layer has, in every arm of a sweep.

    Args:
        rows: The jobs.
        by: Keys whose settings make an arm; see `arms`.
        quantities: Those of a summary's figures that have one for each layer: "temperature" stands
            for temperature/layer_0, temperature/layer_1, ...
        control: A setting as arms name it ("shuffle_tokens=true"). An arm is compared with the one
            that differs in it alone.

    Returns:
        By "<quantity> <figure>, <arm>": `rho`, the mean over runs; `agreement`, the share of runs
        that have the commoner sign; `p`, of a permutation test over layers within runs; `runs`;
        `differs p`, of a permutation test between the runs of an arm and those of its control.
    """
    figures: dict[str, float] = {}
    for quantity in quantities:
        curves = {
            name: [curve for row in jobs if len(curve := by_layer(row, quantity)) > 1]
            for name, jobs in arms(rows, by).items()
        }
        rhos = {name: [_trend(curve) for curve in found] for name, found in curves.items()}
        for name, values in rhos.items():
            if not values or any(math.isnan(value) for value in values):
                continue
            found = {
                "rho": statistics.fmean(values),
                "agreement": same_sign(values),
                "p": trend_p(curves[name]),
                "runs": float(len(values)),
            }
            compared = _with(name, control)
            if compared != name and rhos.get(compared):
                found["differs p"] = difference_p(values, rhos[compared])
            figures |= {f"{quantity} {key}, {name}": value for key, value in found.items()}
    return {name: value for name, value in figures.items() if not math.isnan(value)}


def by_layer(row: Row, quantity: str) -> list[float]:
    """Figures of a job's layers, the first layer first."""
    layers: dict[int, float] = {}
    for key in row.summary or {}:
        match = re.fullmatch(rf"{re.escape(quantity)}/layer_(\d+)", key)
        value = row.value(key)
        if match and value is not None:
            layers[int(match[1])] = value
    return [layers[layer] for layer in sorted(layers)]


def _trend(curve: Sequence[float]) -> float:
    return spearman(range(len(curve)), curve)


def _with(arm: str, setting: str) -> str:
    """The arm whose setting of that key is `setting`."""
    key = setting.partition("=")[0]
    parts = arm.split(" ")
    return " ".join(setting if part.partition("=")[0] == key else part for part in parts)
