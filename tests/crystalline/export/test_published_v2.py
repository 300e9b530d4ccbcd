"""Version 2: published sizes, there and back, and the model that a file means."""

import struct

import numpy as np
import pytest
import torch

from crystalline.errors import UserError
from crystalline.export.published_v2 import from_v2, to_v2
from crystalline.models.crystal import Crystal
from tests.crystalline.export.published_models import PRUNED, WHOLE, tensors

SMALL = tensors(13, d=8, t=6, h=5, n=7, frozen=3)


def small(num_heads=2, precision="float32", pruned=False) -> bytes:
    return to_v2(SMALL, num_heads, precision=precision, pruned=pruned)


@pytest.mark.parametrize(
    ("vocab_size", "precision", "size"),
    [
        (WHOLE, "float32", 53_038_036),
        (PRUNED, "float32", 13_407_608),
        (PRUNED, "mixed8", 8_877_402),
    ],
)
def test_sizes_as_published(vocab_size, precision, size):
    content = to_v2(tensors(vocab_size), 4, precision=precision, pruned=vocab_size == PRUNED)
    assert len(content) == size


def test_the_header_by_hand():
    header = struct.unpack_from("<4sHHI8HI8I", small(pruned=True))
    assert header[:13] == (b"CRYS", 2, 0x8C, 13, 8, 6, 5, 7, 3, 4, 2, 3, 0)
    embedding, positions = 4 * 13 * 8, 4 * 6 * 8
    attention, field = 16 * (64 + 8), 4 * (2 * 56 + 7)
    mlp, head, norms = 4 * (40 + 5 + 40 + 8), 4 * (13 * 8 + 13), 6 * 32
    sizes = [64, embedding, positions, attention, field, mlp, head, norms]
    assert list(header[13:]) == np.cumsum(sizes).tolist()


def test_blind_models_have_no_heads_and_two_norms():
    header = struct.unpack_from("<4sHHI8HI8I", small(num_heads=0))
    assert header[2] == 0x08
    assert header[10:12] == (0, 2)
    assert header[15] == header[16]  # no attention


@pytest.mark.parametrize("num_heads", [0, 2])
def test_a_file_is_read_and_written_again_alike(num_heads):
    content = small(num_heads)
    arguments, found = from_v2(content, "it")
    assert arguments["vocab_size"] == 13
    for name, array in found.items():
        if name in SMALL:
            assert np.array_equal(array, SMALL[name]), name
    frozen = {"blocks.0.field.frozen": SMALL["blocks.0.field.frozen"]}
    assert to_v2(found | frozen, num_heads, precision="float32", pruned=False) == content


def test_an_int8_head_is_within_half_a_step():
    _, found = from_v2(small(precision="mixed8"), "it")
    for name in ("head.weight", "head.bias"):
        step = np.ptp(SMALL[name]) / 254
        assert np.abs(found[name] - SMALL[name]).max() <= 0.5001 * step
    assert np.array_equal(found["embedding.weight"], SMALL["embedding.weight"])


def test_the_model_of_a_file_is_the_one_that_was_written():
    torch.manual_seed(0)
    model = Crystal(
        13, 6, 8, num_heads=4, d_mlp=5, capacity=7, founders=7, mode="faithful", attention="first"
    ).eval()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    content = to_v2(weights, 4, precision="float32", pruned=False)
    arguments, found = from_v2(content, "it")
    assert arguments["num_heads"] == 4
    again = Crystal(**arguments).eval()
    loose = again.load_state_dict({k: torch.from_numpy(v) for k, v in found.items()}, strict=False)
    assert not loose.unexpected_keys
    assert not set(loose.missing_keys) & {name for name, _ in again.named_parameters()}
    tokens = torch.arange(6)[None]
    assert torch.equal(again(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize(
    ("place", "layout", "value", "reason"),
    [
        (4, "<H", 3, "version 3"),
        (6, "<H", 0x88 | 0x40, "contradict"),
        (6, "<H", 0x08, "causal"),
        (18, "<H", 8, "add up"),
        (24, "<H", 0, "causal"),
        (36, "<I", 1, "section positions"),
        (60, "<I", 1, "add up"),
    ],
)
def test_headers_that_contradict_themselves_are_refused(place, layout, value, reason):
    content = bytearray(small())
    struct.pack_into(layout, content, place, value)
    with pytest.raises(UserError, match=reason):
        from_v2(bytes(content), "it")


def test_every_cut_is_refused():
    content = small()
    for size in range(0, len(content), 101):
        with pytest.raises(UserError, match="it is damaged"):
            from_v2(content[:size], "it")
    with pytest.raises(UserError):
        from_v2(content + b"x", "it")


def test_what_has_no_room_in_the_header_is_refused():
    with pytest.raises(UserError, match="65535"):
        to_v2(tensors(3, d=1, t=2**16, h=1, n=1, frozen=0), 0, precision="float32", pruned=False)
