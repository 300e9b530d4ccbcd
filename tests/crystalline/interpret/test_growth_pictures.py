"""Pictures and films of a growing field: what is in them, and that frames can be compared."""

import io
import shutil

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from crystalline.interpret import growth_pictures
from crystalline.interpret.growth_field import Field
from crystalline.interpret.growth_frames import GrowthRecord
from crystalline.interpret.growth_panels import Activities, Births, Curves, Sample, wrapped
from crystalline.interpret.growth_pictures import (
    _FILM_DPI,
    _PICTURE_DPI,
    GrowthFigure,
    _grid,
    _size,
)
from tests.crystalline.interpret.growing import grown


def axes():
    return Figure().subplots()


@pytest.fixture(scope="module")
def drawn():
    """Small, to be quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth_pictures, "_FILM_DPI", 36)
        patch.setattr(growth_pictures, "_PICTURE_DPI", 36)
        yield GrowthFigure(grown(text="To be $x or not\x04 ☃"))


def frames(gif: bytes) -> list[np.ndarray]:
    image = Image.open(io.BytesIO(gif))
    found = []
    for index in range(image.n_frames):
        image.seek(index)
        found.append(np.array(image.convert("RGB")))
    return found


def test_a_film_has_a_frame_for_each_snapshot_of_even_size_and_still_axes(drawn, monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "animation.ffmpeg_path", "no-such-program")
    films = drawn.films()
    assert list(films) == ["growth.gif"]
    found = frames(films["growth.gif"])
    assert len(found) == 3
    assert not np.mod(found[0].shape[:2], 2).any()
    changed = (np.abs(found[0].astype(int) - found[2]) > 60).any(2)  # each has its own palette
    assert changed.any()
    left = drawn.panels[0].lines.axes.get_position().x0 * changed.shape[1]
    assert not changed[:, : int(left) - 2].any()  # labels of the vertical axis


def test_the_film_shows_what_a_picture_of_the_frame_shows(drawn):
    *_, last = drawn._pixels()
    drawn.show(2)
    buffer = io.BytesIO()
    drawn.figure.savefig(buffer, format="png", dpi=growth_pictures._FILM_DPI)
    whole = np.array(Image.open(buffer).convert("RGB"))
    assert whole.shape == last.shape
    assert (np.abs(whole.astype(int) - last) > 40).mean() < 1e-3


def test_a_long_record_is_thinned_but_keeps_its_ends(drawn, monkeypatch):
    shown = []
    monkeypatch.setattr(growth_pictures, "MOST_FRAMES", 2)
    monkeypatch.setattr(drawn, "show", shown.append)
    assert len(list(drawn._pixels())) == 2
    assert shown == [0, 2]


def test_an_ffmpeg_that_fails_costs_the_mp4_alone(drawn, monkeypatch, caplog):
    monkeypatch.setitem(mpl.rcParams, "animation.ffmpeg_path", shutil.which("false"))
    assert list(drawn.films()) == ["growth.gif"]
    assert "no growth.mp4" in caplog.text


def test_the_title_counts_neurons_and_frozen_ones(drawn):
    drawn.show(0)
    assert drawn.title.get_text() == "epoch 0 of 20: 2 neurons, 0 frozen (0%)"
    drawn.show(2)
    assert drawn.title.get_text() == "epoch 20 of 20: 5 neurons, 1 frozen (20%)"


def test_fields_that_a_picture_has_no_room_for_are_told_in_its_title(monkeypatch):
    assert growth_pictures.MOST_FIELDS == 6
    monkeypatch.setattr(growth_pictures, "MOST_FIELDS", 2)
    shown = GrowthFigure(grown(sites=4))
    assert [type(panel) for panel in shown.panels] == [Field] * 2 + [Curves, Activities, Births]
    assert shown.title.get_text().endswith(
        "20 neurons, 4 frozen (20%) (2 more fields are not drawn)"
    )


@pytest.mark.parametrize("fields", range(1, 7))
def test_panels_fill_a_grid_without_overlap_on_an_even_number_of_pixels(fields):
    rows, places = _grid(fields)
    assert len(places) == fields + 3
    cells = [(row, start + step) for row, start, size in places for step in range(size)]
    assert len(set(cells)) == len(cells) <= 6 * (rows + 1)
    assert {row for row, _ in cells} == set(range(rows + 1))
    assert {column for _, column in cells} == set(range(6))
    for dpi in (_FILM_DPI, _PICTURE_DPI):
        assert [size * dpi % 2 for size in _size(rows)] == [0, 0]


def test_a_record_without_neurons_has_no_picture():
    with pytest.raises(ValueError, match="a frame with a neuron"):
        GrowthFigure(GrowthRecord(5))


def test_curves_end_at_the_epoch_that_is_shown():
    panel = Curves(axes(), grown())
    panel.show(1)
    found = {line.get_label(): line.get_xydata().tolist() for line, _ in panel.curves}
    assert found == {
        "val/loss": [[5.5, 7.45]],
        "neurons": [[0, 2], [10, 4]],
        "frozen": [[0, 0], [10, 0]],
    }


def test_every_active_neuron_is_in_one_bar():
    panel = Activities(axes(), grown(sites=2))
    totals = []
    for index in range(3):
        panel.show(index)
        totals.append([int(bar.get_data().values.sum()) for bar in panel.bars])
    assert totals == [[0, 0], [0, 8], [2, 8]]
    assert panel.bars[0].axes.get_xscale() == "log"


def test_births_are_told_where_nothing_was_written():
    panel = Births(axes(), grown())
    panel.show(2)
    values, edges, _ = panel.bars[1].get_data()
    born = {float(edges[i]): int(values[i]) for i in values.nonzero()[0]}
    assert list(born.values()) == [2, 2]
    assert min(born) == 0


def test_a_sample_is_wrapped_and_has_no_letters_that_a_font_may_lack(drawn):
    assert isinstance(drawn.panels[-1], Sample)
    assert drawn.panels[-1].text.get_text() == "To be $x or not? ?"
    lines = wrapped("ab☃ \x04\n" + "word " * 200).splitlines()
    assert lines[0].startswith("ab? ? word")
    assert len(lines) == 8
    assert max(map(len, lines)) <= 60
