"""Files of version 3: by hand, there and back, and what is refused."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from crystalline.errors import UserError
from crystalline.export import container
from crystalline.export.checksum import crc32c
from crystalline.export.container import CrystalFile, StoredTensor
from crystalline.export.container_reader import parse
from tests.crystalline.export.files import METADATA, small_file

NAMES = st.text(min_size=1, max_size=8).filter(
    lambda text: text.isprintable() and not text.startswith("alias.")  # which names a tensor
)
VALUES = st.one_of(
    st.integers(0, 2**64 - 1), st.floats(allow_nan=False), st.text(max_size=9), st.booleans()
)
ARRAYS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    elements=st.floats(-9, 9, width=32),
)  # fmt: skip
SCHEMES = st.sampled_from(
    ["f32", "f16", "int8_tensor", "int16_tensor", "int8_row", "int6_group", "int4_group"]
)


def parsed(content: bytes) -> CrystalFile:
    return parse(np.frombuffer(content, np.uint8), "it")


def test_by_hand():
    weights = np.array([[1.5, -2.0]], np.float32)
    file = CrystalFile({"k": True}, {"w": StoredTensor.of(weights, "f32")})
    metadata = b"\x01\0k\x03\x01"
    directory = b"\x01\0w" + struct.pack("<HHQQ", 0, 2, 1, 2)
    directory += struct.pack("<IIQQQQ", 0, crc32c(weights.tobytes()), 192, 8, 0, 0)
    head = b"CRYS" + struct.pack("<HHQQQQQII", 3, 0x1234, 200, 64, 5, 69, len(directory), 1, 1)
    head += struct.pack("<I", crc32c(metadata + directory))
    body = head + struct.pack("<I", crc32c(head)) + metadata + directory
    assert file.to_bytes() == body + bytes(192 - len(body)) + weights.tobytes()


def test_a_file_says_what_was_written_and_is_written_again_alike(tmp_path):
    file = small_file()
    path = tmp_path / "small.crystal"
    container.write(path, file)
    assert container.version_of(path) == 3
    assert file.num_bytes == path.stat().st_size
    found = container.read(path)
    assert found.metadata == METADATA
    for name, tensor in file.tensors.items():
        assert found.tensors[name].shape == tensor.shape
        assert np.array_equal(found.tensors[name].array(), tensor.array()), name
    assert found.to_bytes() == path.read_bytes()


@given(st.dictionaries(NAMES, VALUES), st.dictionaries(NAMES, st.tuples(ARRAYS, SCHEMES)))
@settings(max_examples=20, deadline=None)
def test_every_content_comes_back(metadata, arrays):
    tensors = {name: StoredTensor.of(*pair) for name, pair in arrays.items()}
    content = CrystalFile(metadata, tensors).to_bytes()
    found = parsed(content)
    assert found.metadata == metadata
    assert found.to_bytes() == content
    for name, (array, scheme) in arrays.items():
        back = found.tensors[name].array()
        assert back.shape == array.shape
        assert scheme != "f32" or np.array_equal(back, array)


def test_equal_contents_give_equal_files_whatever_the_order():
    file = small_file()
    turned = CrystalFile(
        dict(reversed(file.metadata.items())), dict(reversed(file.tensors.items()))
    )
    assert turned.to_bytes() == file.to_bytes()


def test_tied_tensors_are_found_by_both_names():
    file = parsed(small_file(**{"alias.head": "t.f32"}).to_bytes())
    assert file.tensor("head") is file.tensor("t.f32")
    for alias in ({"alias.head": "nothing"}, {"alias.t.f32": "t.f16"}):
        with pytest.raises(UserError, match="alias"):
            parsed(small_file(**alias).to_bytes())


def test_only_files_of_ours_have_a_version(tmp_path):
    for content in (b"", b"CRY", b"PK\3\4" + bytes(80)):
        (tmp_path / "x").write_bytes(content)
        assert container.version_of(tmp_path / "x") is None
    with pytest.raises(UserError, match="cannot be read"):
        container.read(tmp_path)


def test_more_than_four_axes_are_refused():
    with pytest.raises(ValueError, match="5 axes"):
        StoredTensor.of(np.zeros((1, 1, 1, 1, 1)), "f32")
