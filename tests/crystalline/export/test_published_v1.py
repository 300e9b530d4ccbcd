"""Version 1: the published example, what it keeps, and what it loses."""

import struct

import numpy as np
import pytest

from crystalline.errors import UserError
from crystalline.export.published_v1 import PRECISIONS, from_v1, to_v1
from tests.crystalline.export.published_models import PRUNED, tensors

SMALL = tensors(13, d=8, t=6, h=5, n=7, frozen=3)
FIELD = "blocks.0.field."
FROZEN = SMALL[FIELD + "frozen"]
ORDER = np.concatenate([FROZEN.nonzero()[0], (~FROZEN).nonzero()[0]])


def small(precision="float32", **changes) -> bytes:
    return to_v1(SMALL | changes, precision=precision, pruned=False)


def test_the_example_as_published():
    content = to_v1(tensors(PRUNED), precision="int8", pruned=True)
    assert len(content) == 3_486_116
    assert struct.unpack_from("<4sHHI10H8I", content) == (
        b"CRYS", 1, 0x0004, 11706, 128, 64, 256, 788, 567, 221, 567, 256, 0, 0,
        64, 96, 145252, 146386, 202966, 1701334, 1710314, 1973994,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "flags"),
    [("float32", 0x08), ("int8", 0), ("int16", 0x10), ("mixed16", 0x30), ("mixed8", 0x40)],
)
def test_flags_as_published(precision, flags):
    assert struct.unpack_from("<H", small(precision), 6) == (flags,)


def test_frozen_neurons_that_are_alike_are_stored_once():
    rows = FROZEN.nonzero()[0]
    alike = {}
    for name in ("positions", "values"):
        alike[FIELD + name] = SMALL[FIELD + name].copy()
        alike[FIELD + name][rows[2]] = alike[FIELD + name][rows[0]]
    content = small(**alike)
    assert struct.unpack_from("<H", content, 24) == (2,)
    mapping_at = struct.unpack_from("<I", content, 40)[0]
    assert struct.unpack_from("<3H", content, mapping_at) == (0, 1, 0)
    found = from_v1(content, "it", as_published=False, frozen=FROZEN).tensors
    assert np.array_equal(found[FIELD + "values"], alike[FIELD + "values"])


def test_in_fp32_all_is_there_once_the_frozen_neurons_are_known():
    content = small()
    arguments, found = from_v1(content, "it", as_published=False, frozen=FROZEN)
    assert arguments["attention"] == "none"
    for name, array in found.items():
        if name in SMALL:
            assert np.array_equal(array, SMALL[name]), name
    assert to_v1(found, precision="float32", pruned=False) == content
    with pytest.raises(UserError, match="which neurons are frozen"):
        from_v1(content, "it", as_published=False)
    with pytest.raises(UserError, match="3 frozen of 7"):
        from_v1(content, "it", as_published=False, frozen=~FROZEN)


def test_where_all_neurons_are_frozen_their_order_is_known():
    content = small(**{FIELD + "frozen": np.ones(7, bool)})
    found = from_v1(content, "it", as_published=False).tensors
    assert np.array_equal(found[FIELD + "positions"], SMALL[FIELD + "positions"])


def test_the_published_runtime_puts_temperatures_beside_other_neurons():
    found = from_v1(small(), "it", as_published=True).tensors
    assert np.array_equal(found[FIELD + "positions"], SMALL[FIELD + "positions"][ORDER])
    assert np.array_equal(found[FIELD + "width"], SMALL[FIELD + "width"])
    assert found[FIELD + "frozen"].tolist() == [True] * 3 + [False] * 4


@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_the_published_runtime_decodes_by_scales_of_other_tensors(precision):
    levels = 127 if precision == "int8" else 32767
    found = from_v1(small(precision), "it", as_published=True).tensors
    for name, by in {
        "embedding.weight": "embedding.weight",
        "position_embedding.weight": "embedding.weight",
        FIELD + "values": FIELD + "positions",
        FIELD + "width": FIELD + "positions",
        "head.bias": "head.bias",
    }.items():
        own, other = SMALL[name], SMALL[by]
        share = (own - own.min()) / np.ptp(own)  # 0 to 1, whatever the scale
        expected = other.min() + share * np.ptp(other)
        expected = expected[ORDER] if name == FIELD + "values" else expected
        step = np.ptp(other) / (2 * levels)
        assert np.abs(found[name] - expected).max() <= 0.51 * step, name
    with pytest.raises(UserError, match="no scales of values"):
        from_v1(small(precision), "it", as_published=False, frozen=FROZEN)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_cut_is_refused(precision):
    content = small(precision)
    for size in range(0, len(content), 97):
        with pytest.raises(UserError, match="it is damaged"):
            from_v1(content[:size], "it", as_published=True)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (4, 2, "version 2"), (6, 0x48, "contradict"), (6, 0x20, "contradict"), (20, 4, "add up"),
        (24, 4, "as many patterns"), (26, 8, "add up"), (44, 0, "section active"),
    ],
)  # fmt: skip
def test_headers_that_contradict_themselves_are_refused(place, value, reason):
    content = bytearray(small())
    struct.pack_into("<H", content, place, value)
    with pytest.raises(UserError, match=reason):
        from_v1(bytes(content), "it", as_published=True)


def test_a_mapping_beyond_the_patterns_is_refused():
    content = bytearray(small())
    struct.pack_into("<H", content, struct.unpack_from("<I", content, 40)[0], 9)
    with pytest.raises(UserError, match="not there"):
        from_v1(bytes(content), "it", as_published=True)
