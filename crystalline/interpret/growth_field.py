"""The panel of a picture of growth that shows where the neurons of a field are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from crystalline.interpret.growth_frames import GrowthRecord, Members, families, parent_index
from crystalline.interpret.growth_panels import FROZEN, Panel

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_DECADES = 3  # of activity, that sizes of markers tell apart


class Field(Panel):
    """Neurons of one field in the plane of its principal axes, with lines from parent to child.

    A colour for each founder and all who descend from it. Frozen neurons are grey, with a rim in
    the colour of their family. A marker grows with the logarithm of activity over the largest of
    the frame.
    """

    def __init__(self, axes: Axes, record: GrowthRecord, site: str) -> None:
        from matplotlib.collections import LineCollection

        pooled = [f.fields[site]["positions"] for f in record.frames if site in f.fields]
        centre, plane, shares = common_plane(np.concatenate(pooled))
        self.frames = [_drawn(frame.fields.get(site), centre, plane) for frame in record.frames]
        places = np.concatenate([places for places, _, _, _ in self.frames])
        low, high = places.min(0), places.max(0)
        margin = np.maximum(0.2 * (high - low), 0.5)
        axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
        axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
        axes.set_xlabel(f"first axis: {shares[0]:.0%} of the variance")
        axes.set_ylabel(f"second axis: {shares[1]:.0%}")
        axes.set_title(site, fontsize="medium")
        self.lines = LineCollection([], linewidths=0.6, alpha=0.5, zorder=1)
        axes.add_collection(self.lines, autolim=False)
        self.markers = axes.scatter([], [], zorder=2, linewidths=0.9)
        legend = [_legend(axes)] if site == record.sites()[0] else []
        self.moving = [self.lines, self.markers, *legend]  # markers may lie under the legend

    def show(self, index: int) -> None:
        places, style, parents, order = self.frames[index]
        born = (parents >= 0).nonzero()[0]
        self.lines.set_segments(list(np.stack([places[parents[born]], places[born]], 1)))
        self.lines.set_color(style["rim"][born])
        self.markers.set_offsets(places[order])
        self.markers.set_sizes(style["size"][order])
        self.markers.set_facecolor(style["face"][order])
        self.markers.set_edgecolor(style["rim"][order])


def _legend(axes: Axes) -> Artist:
    """What markers and lines of any field mean; violet stands for the colour of a family."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="none", color="tab:purple",
               label="learning, in its family's colour"),
        Line2D([], [], marker="o", linestyle="none", color="tab:purple",
               markerfacecolor=FROZEN, label="frozen, rim of its family"),
        Line2D([], [], color="tab:purple", linewidth=0.6, label="parent to child"),
    ]  # fmt: skip
    return axes.legend(handles=handles, fontsize="x-small", loc="upper right", framealpha=0.7)


def _drawn(
    members: Members | None, centre: np.ndarray, plane: np.ndarray
) -> tuple[Float[np.ndarray, "n 2"], dict[str, Any], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Places, style, index of each parent, and the order of drawing: learning ones last."""
    if members is None:
        none = np.zeros(0, dtype=np.int64)
        style = {"size": np.zeros(0), "face": np.zeros((0, 4)), "rim": np.zeros((0, 4))}
        return np.zeros((0, 2)), style, none, none
    row, parent, frozen = (members[name] for name in ("row", "parent", "frozen"))
    rim = family_colours(families(row, parent))
    face = np.where(frozen[:, None], (float(FROZEN),) * 3 + (1.0,), rim)
    style = {"size": marker_sizes(members["activity"]), "face": face, "rim": rim}
    places = (members["positions"].astype(np.float64) - centre) @ plane
    return places, style, parent_index(row, parent), np.argsort(~frozen, kind="stable")


def family_colours(founders: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n 4"]:
    """RGBA for each founder's number; those of neighbours in number are far apart in hue."""
    from matplotlib.colors import hsv_to_rgb

    hue = founders * 0.6180339887 % 1.0
    strength, light = 0.6 + 0.35 * (founders % 2), 0.95 - 0.15 * (founders % 3)
    colours = hsv_to_rgb(np.stack([hue, strength, light], 1))
    return np.concatenate([colours, np.full((len(founders), 1), 1.0)], 1)


def marker_sizes(activity: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """In points squared: 50 for the largest activity, 10 for one 1000 times smaller or none."""
    most = activity.max(initial=0.0)
    relative = activity / most if most > 0 else np.zeros(len(activity))
    level = 1 + np.log10(np.maximum(relative, 10.0**-_DECADES)) / _DECADES
    return 10 + 40 * level


def common_plane(
    points: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d 2"], Float[np.ndarray, " 2"]]:
    """Centre, the two principal axes as columns, and the share of the variance along each.

    The largest coordinate of an axis is positive, so that equal points give equal pictures.
    """
    points = points.astype(np.float64)
    centre = points.mean(0)
    values, vectors = np.linalg.eigh(np.cov(points.T, bias=True).reshape(2 * points.shape[1:]))
    axes, along = vectors[:, :-3:-1], values[:-3:-1].clip(min=0)
    if axes.shape[1] < 2:  # points on a line
        axes, along = np.pad(axes, ((0, 0), (0, 1))), np.pad(along, (0, 1))
    largest = np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0)
    total = values.clip(min=0).sum()
    return centre, axes * np.where(largest < 0, -1.0, 1.0), along / (total or 1.0)
