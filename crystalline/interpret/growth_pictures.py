"""Pictures and films of a field that grows: where its neurons are, how many, how active.

All frames of a film share their axes: one pair of principal axes for all positions of a field in
all snapshots, one pair of limits, one set of bins. Artists are made once and moved.
"""

from __future__ import annotations

import io
import logging
import math
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from crystalline.interpret.growth_field import Field
from crystalline.interpret.growth_frames import Frame, GrowthRecord
from crystalline.interpret.growth_panels import Activities, Births, Curves, Panel, Sample

if TYPE_CHECKING:
    from matplotlib.animation import AbstractMovieWriter

log = logging.getLogger(__name__)

MOST_FIELDS = 6
"""That a picture has room for."""
MOST_FRAMES = 100
"""That a film has; a longer record is thinned evenly."""
FRAMES_PER_S = 5
_FILM_DPI = 72  # times the size in inches: even numbers of pixels, which H.264 asks for
_PICTURE_DPI = 120


class GrowthFigure:
    """A figure that shows any frame of a record.

    One field has a fourth of the picture; several, at most six, share its upper part.

    Args:
        record: With one frame at least.

    Raises:
        ValueError: If there is no frame, or none with a neuron.
    """

    def __init__(self, record: GrowthRecord) -> None:
        from matplotlib.figure import Figure  # pyplot would look for a screen

        if not record.sites():
            raise ValueError("a picture of growth needs a frame with a neuron in it")
        self.record = record
        sites = record.sites()[:MOST_FIELDS]
        rows, places = _grid(len(sites))
        self.figure = Figure(figsize=_size(rows), layout="constrained")
        grid = self.figure.add_gridspec(rows + 1, 6)
        axes = [
            self.figure.add_subplot(grid[row, start : start + size]) for row, start, size in places
        ]
        self.panels: list[Panel] = [
            Field(each, record, site) for each, site in zip(axes, sites, strict=False)
        ]
        self.panels += [Curves(axes[-3], record), Activities(axes[-2], record)]
        written = any(frame.text for frame in record.frames)
        self.panels.append((Sample if written else Births)(axes[-1], record))
        self.title = self.figure.suptitle("")
        self.moving = [artist for panel in self.panels for artist in panel.moving] + [self.title]
        self.show(len(record.frames) - 1)
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine("none")  # once, not for every frame

    def show(self, index: int) -> None:
        """Move everything to a frame."""
        for panel in self.panels:
            panel.show(index)
        self.title.set_text(_title(self.record, self.record.frames[index]))

    def png(self) -> bytes:
        """What is shown, as a PNG."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=_PICTURE_DPI, metadata={"Software": None})
        return buffer.getvalue()

    def films(self) -> dict[str, bytes]:
        """All frames: growth.gif, and growth.mp4 (H.264) where ffmpeg is there and writes it."""
        from matplotlib.animation import FFMpegWriter, PillowWriter

        pixels = list(self._pixels())
        found = {"growth.gif": _film(pixels, PillowWriter(fps=FRAMES_PER_S), "growth.gif")}
        if FFMpegWriter.isAvailable():
            try:
                film = _film(pixels, FFMpegWriter(fps=FRAMES_PER_S), "growth.mp4")
            except (OSError, subprocess.CalledProcessError) as error:
                log.warning("no growth.mp4: ffmpeg failed (%s)", error)
            else:
                found["growth.mp4"] = film
        return found

    def _pixels(self) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """Every frame of the films as RGB: what stands still is drawn once, on it what moves."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        count = len(self.record.frames)
        chosen = np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int)
        self.figure.set_dpi(_FILM_DPI)
        canvas = FigureCanvasAgg(self.figure)
        for artist in self.moving:
            artist.set_animated(True)
        try:
            canvas.draw()
            still = canvas.copy_from_bbox(self.figure.bbox)
            for index in chosen.tolist():
                canvas.restore_region(still)
                self.show(index)
                for artist in self.moving:
                    artist.draw(canvas.get_renderer())
                yield np.array(canvas.buffer_rgba())[..., :3].copy()
        finally:
            for artist in self.moving:
                artist.set_animated(False)


def _grid(fields: int) -> tuple[int, list[tuple[int, int, int]]]:
    """Rows of fields; and of each field and three more panels: row, first of six columns, width."""
    if fields == 1:
        return 1, [(0, 0, 3), (0, 3, 3), (1, 0, 3), (1, 3, 3)]
    columns = 2 if fields in (2, 4) else 3
    rows, width = -(-fields // columns), 6 // columns
    places = [(index // columns, index % columns * width, width) for index in range(fields)]
    return rows, [*places, (rows, 0, 2), (rows, 2, 2), (rows, 4, 2)]


def _size(rows: int) -> tuple[float, float]:
    """Of the figure, in inches."""
    return 12.0, 9.0 if rows == 1 else 12.0


def growth_pictures(record: GrowthRecord) -> dict[str, bytes]:
    """Files by name: growth.png (the last frame) and the films.

    Raises:
        ValueError: If the record has no frame with a neuron.
    """
    shown = GrowthFigure(record)
    return {"growth.png": shown.png(), **shown.films()}


def _film(
    pixels: Sequence[UInt8[np.ndarray, "height width 3"]], writer: AbstractMovieWriter, name: str
) -> bytes:
    """The content of a film of this name; a bare figure hands the pixels to the writer."""
    from matplotlib.figure import Figure

    height, width, _ = pixels[0].shape
    bare = Figure(figsize=(width / _FILM_DPI, height / _FILM_DPI), dpi=_FILM_DPI)
    image = bare.figimage(pixels[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        with writer.saving(bare, str(path), _FILM_DPI):
            for drawn in pixels:
                image.set_data(drawn)
                writer.grab_frame()
        return path.read_bytes()


def _title(record: GrowthRecord, frame: Frame) -> str:
    frozen = sum(int(members["frozen"].sum()) for members in frame.fields.values())
    living = sum(len(members["row"]) for members in frame.fields.values())
    share = frozen / living if living else math.nan
    left = len(record.sites()) - MOST_FIELDS
    more = f" ({left} more fields are not drawn)" if left > 0 else ""
    return (
        f"epoch {frame.epoch} of {record.epochs}: {living} neurons, "
        f"{frozen} frozen ({share:.0%}){more}"
    )
