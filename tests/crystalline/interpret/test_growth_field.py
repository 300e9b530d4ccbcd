"""Where neurons are drawn, in which colours and how large."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from crystalline.interpret.growth_field import Field, common_plane, marker_sizes
from crystalline.interpret.growth_panels import FROZEN
from tests.crystalline.interpret.growing import grown


@pytest.fixture(scope="module")
def field():
    return Field(Figure().subplots(), grown(), "blocks.0.field")


def test_a_neuron_that_rests_stays_where_it_is_drawn(field):
    field.show(0)
    before = field.markers.get_offsets()[0]
    field.show(2)
    assert np.array_equal(before, field.frames[2][0][0])
    places = np.concatenate([places for places, *_ in field.frames])
    box = field.markers.axes
    assert box.get_xlim()[0] < places[:, 0].min() - 0.49
    assert box.get_ylim()[1] > places[:, 1].max() + 0.49


def test_a_family_has_one_colour_and_frozen_neurons_are_grey_with_its_rim(field):
    field.show(2)
    faces, rims = field.markers.get_facecolor(), field.markers.get_edgecolor()
    frozen, *learning = range(5)  # frozen ones are drawn first: row 5, then 0, 2, 3, 7
    assert np.allclose(faces[frozen], to_rgba(FROZEN))
    assert np.allclose(faces[learning], rims[learning])
    zero, two, three, seven = rims[learning]
    assert np.allclose(zero, three)
    assert np.allclose(two, seven)
    assert np.allclose(two, rims[frozen])
    assert not np.allclose(zero, two)
    legend = field.moving[-1].get_lines()[1]
    assert to_rgba(legend.get_markerfacecolor()) == to_rgba(FROZEN)


def test_a_line_joins_each_child_to_its_parent(field):
    field.show(1)
    places = field.frames[1][0]
    found = [segment.tolist() for segment in field.lines.get_segments()]
    assert found == [places[[0, 2]].tolist(), places[[1, 3]].tolist()]


def test_markers_grow_with_the_logarithm_of_activity():
    sizes = marker_sizes(np.array([1.0, 0.1, 0.01, 1e-3, 1e-9, 0.0]))
    assert sizes == pytest.approx([50, 110 / 3, 70 / 3, 10, 10, 10])
    assert marker_sizes(np.zeros(2)).tolist() == [10, 10]


def test_the_plane_holds_the_largest_variance_and_says_how_much_it_is():
    random = np.random.default_rng(0)
    turn = np.linalg.qr(random.normal(size=(5, 5)))[0]
    spread = np.array([3.0, 2.0, 0.5, 0.1, 0.1])
    points = random.normal(size=(4000, 5)) * spread @ turn + 7
    centre, axes, shares = common_plane(points)
    assert np.abs(centre - 7).max() < 0.2
    assert np.abs(np.diag(turn[:2] @ axes)) == pytest.approx(1, abs=0.01)
    assert shares == pytest.approx(spread[:2] ** 2 / (spread**2).sum(), abs=0.02)
    assert np.allclose(common_plane(points[::-1])[1], axes)
    assert (axes[np.abs(axes).argmax(0), [0, 1]] > 0).all()


def test_points_on_a_line_and_a_single_point_have_a_plane_too():
    _, axes, shares = common_plane(np.arange(4.0)[:, None])
    assert (axes.tolist(), shares.tolist()) == ([[1.0, 0.0]], [1.0, 0.0])
    assert common_plane(np.ones((1, 3)))[2].tolist() == [0, 0]
