"""Every scheme by hand, within its bound, and packed as the format says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from crystalline.export.container import StoredTensor
from crystalline.export.schemes import SCHEMES
from tests.crystalline.export.runtime.schemes import WEIGHTS, stored

ARRAYS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=70),
    elements=st.floats(-1e4, 1e4, width=32), fill=st.floats(-1, 1, width=32),
)  # fmt: skip


def steps(array: np.ndarray, scheme: str) -> np.ndarray:
    """What half of is the largest error, for each value."""
    rows = array.reshape(-1, array.shape[-1])
    if scheme.endswith("_tensor"):
        levels = 254 if scheme.startswith("int8") else 65534
        return np.full(array.shape, (array.max() - array.min()) / levels)
    if scheme == "int8_row":
        return np.broadcast_to(np.abs(rows).max(1, keepdims=True) / 127, rows.shape)
    levels = SCHEMES[scheme].levels
    groups = [rows[:, i : i + 32] for i in range(0, rows.shape[1], 32)]
    largest = [np.broadcast_to(np.abs(g).max(1, keepdims=True), g.shape) for g in groups]
    # Half precision rounds a scale up by at most 2**-10 of it, or to the next multiple of 2**-24.
    return np.concatenate(largest, 1) / levels * (1 + 2**-10) + 2**-24


@pytest.mark.parametrize("scheme", WEIGHTS[2:])
@given(array=ARRAYS)
@settings(max_examples=20, deadline=None)
def test_no_value_moves_by_more_than_half_a_step(scheme, array):
    back = StoredTensor.of(array, scheme).array()
    assert back.dtype == np.float32
    assert back.shape == array.shape
    bound = steps(array, scheme).reshape(array.shape) / 2 + 1e-8  # 1e-8: counts as constant
    slack = 4 * np.finfo(np.float32).eps * (np.abs(array).max() + np.abs(array))
    assert (np.abs(back - array.astype(np.float64)) <= bound + slack).all()


@pytest.mark.parametrize("scheme", WEIGHTS)
@pytest.mark.parametrize("shape", [(3, 2, 37), (5, 64), (1, 1)])
def test_bytes_mean_what_another_reading_of_the_format_says(scheme, shape):
    array = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    theirs = stored(array, scheme)
    ours = StoredTensor.of(array, scheme)
    values, scales = (np.frombuffer(part, np.uint8) for part in (theirs.values, theirs.scales))
    assert (values.size, scales.size) == ours.scheme.sizes(shape)
    read = ours.scheme.decode(ours.packed._replace(values=values, scales=scales), shape)
    assert np.allclose(read, theirs.meaning, atol=1e-6)


def test_per_tensor_by_hand():
    stored = StoredTensor.of(np.array([[-1.0, 0.0, 1.54]], np.float32), "int8_tensor")
    assert stored.packed.scales.view("<f4").tolist() == pytest.approx([0.01, 0.27])
    assert stored.packed.values.view(np.int8).tolist() == [-127, -27, 127]
    constant = StoredTensor.of(np.full((2, 2), 0.7, np.float32), "int16_tensor")
    assert constant.packed.values.view("<i2").tolist() == [0, 0, 0, 0]
    assert constant.packed.scales.view("<f4").tolist() == pytest.approx([1.0, 0.7])


def test_rows_by_hand():
    weights = np.array([[1.27, -0.5, 0.004], [0, 0, 0]], np.float32)
    stored = StoredTensor.of(weights, "int8_row")
    assert stored.packed.values.view(np.int8).tolist() == [127, -50, 0, 0, 0, 0]
    assert stored.packed.scales.view("<f4").tolist() == pytest.approx([0.01, 0])


def test_groups_by_hand():
    four = StoredTensor.of(np.array([[7.0, -7.0, 1.0]], np.float32), "int4_group")
    assert four.packed.values.tolist() == [0x1F, 0x89, *[0x88] * 14]
    six = StoredTensor.of(np.array([[31.0, -31.0, 0.0, 1.0]], np.float32), "int6_group")
    bits = int.from_bytes(six.packed.values[:3].tobytes(), "little")
    assert [bits >> 6 * i & 63 for i in range(4)] == [63, 1, 32, 33]
    assert four.packed.scales.view("<f2").tolist() == six.packed.scales.view("<f2").tolist() == [1]


@pytest.mark.parametrize("scheme", ["int8_row", "int6_group", "int4_group"])
def test_clipping_never_costs_and_helps_with_few_bits(scheme):
    array = np.random.default_rng(2).normal(size=(40, 64)).astype(np.float32)
    errors = {
        clip: ((StoredTensor.of(array, scheme, clip).array() - array) ** 2).mean()
        for clip in ("none", "mse")
    }
    assert errors["mse"] <= errors["none"]
    assert scheme != "int4_group" or errors["mse"] < 0.95 * errors["none"]


@pytest.mark.parametrize("scheme", WEIGHTS[2:])
def test_numbers_that_are_none_are_refused(scheme):
    with pytest.raises(ValueError, match="not finite"):
        StoredTensor.of(np.array([[1.0, np.nan]]), scheme)


@pytest.mark.parametrize("scheme", ["f16", "int4_group"])
def test_numbers_too_large_for_half_precision_are_refused(scheme):
    with pytest.raises(ValueError, match="beyond"):
        StoredTensor.of(np.array([[1e9]], np.float32), scheme)


def test_a_scheme_knows_where_it_takes_less_room():
    assert SCHEMES["int8_row"].shrinks((1024, 8))
    assert not SCHEMES["int8_row"].shrinks((5, 1))
    assert SCHEMES["int4_group"].shrinks((5, 8))
    assert not SCHEMES["int4_group"].shrinks((5, 3))  # filled up to 32
    assert not SCHEMES["f32"].shrinks((5, 3))
