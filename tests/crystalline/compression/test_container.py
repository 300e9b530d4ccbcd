"""The file of `crystalline.compress`: what is in it, and that damage is seen."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalline.compression.container import Header, pack, unpack
from crystalline.compression.setting import Setting, threads
from crystalline.errors import UserError

HERE = Setting("cpu AVX2", 3, "2.13.0+cpu", "0.1.0", "0.5.0")
HEADER = Header("ab" * 32, 2**32 - 1, 12345, 678, HERE)


@given(payload=st.binary(max_size=20))
def test_header_and_payload_come_back(payload):
    packed = pack(HEADER, payload)
    assert unpack(packed, "f") == (HEADER, payload)
    assert len(packed) - len(payload) < 110


@given(at=st.integers(min_value=0), bit=st.integers(0, 7))
def test_every_flipped_bit_is_seen(at, bit):
    packed = bytearray(pack(HEADER, b"payload"))
    packed[at % len(packed)] ^= 1 << bit
    with pytest.raises(UserError):
        unpack(bytes(packed), "f")


def test_every_truncation_is_seen():
    packed = pack(HEADER, b"payload")
    for length in range(len(packed)):
        with pytest.raises(UserError, match=r"damaged or cut off|no file that") as caught:
            unpack(packed[:length], "input=f")
        assert str(caught.value).startswith("input=f ")


def test_another_version_is_named():
    packed = bytearray(pack(HEADER, b""))
    packed[8] = 2
    with pytest.raises(UserError, match="has format 2, this version reads 1"):
        unpack(bytes(packed), "f")


def test_what_differs_between_machines_is_named():
    other = replace(HERE, torch="2.14.0", threads=2)
    assert HERE.differences(HERE) == []
    assert HERE.differences(other) == ["threads 3 (here 2)", "torch 2.13.0+cpu (here 2.14.0)"]


def test_threads_are_set_for_a_while():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert Setting.here().threads == before + 1
    assert torch.get_num_threads() == before
