import struct

import numpy as np
import pytest

from tests.crystalline.export.runtime.driving import small_model
from tests.crystalline.export.runtime.old_files import write_v1, write_v2
from tests.crystalline.export.runtime.schemes import plain as stored
from tests.crystalline.export.runtime.writing import (
    architecture,
    crc32c,
    file_bytes,
    write_model,
)

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("content") / "model.crystal"
    write_model(path, small_model(mode="faithful", attention="first"))
    return path.read_bytes()


def resealed(content):
    """With the checksums of header, metadata and directory mended."""
    body = bytearray(content)
    _, metadata, start, size = struct.unpack_from("<4Q", body, 16)
    body[56:60] = struct.pack(
        "<I", crc32c(bytes(body[64 : 64 + metadata] + body[start : start + size]))
    )
    body[60:64] = struct.pack("<I", crc32c(bytes(body[:60])))
    return bytes(body)


def patched(content, at, kind, value):
    body = bytearray(content)
    struct.pack_into(f"<{kind}", body, at, value)
    return resealed(body)


def entry(content, name):
    """Where the directory's entry of a tensor goes on behind its name."""
    name = name.encode()
    return content.index(struct.pack("<H", len(name)) + name + b"\0\0\2\0") + 2 + len(name)


DAMAGES = {
    "cut off: 40 bytes": lambda c: c[:40],
    "not a .crystal file": lambda c: b"GGUF" + c[4:],
    "version 7 is unknown": lambda c: patched(c, 4, "H", 7),
    "another byte order": lambda c: patched(c, 6, "H", 0x3412),
    "checksum of the header": lambda c: c[:20] + b"\1" + c[21:],
    "where its header says": lambda c: c[:-1],
    "metadata do not follow": lambda c: patched(c, 16, "Q", 128),
    "metadata does not lie within": lambda c: patched(c, 24, "Q", 2**63),
    "directory does not lie within": lambda c: patched(c, 32, "Q", 2**64 - 64),
    "checksum of metadata and directory": lambda c: c[:70] + b"\xff" + c[71:],
    "more entries than": lambda c: patched(c, 52, "I", 2**31),
    "directory is longer": lambda c: patched(c, 52, "I", struct.unpack_from("<I", c, 52)[0] - 1),
    "scheme 9 is unknown": lambda c: patched(c, entry(c, "embedding.weight"), "H", 9),
    "rank 5 is above 4": lambda c: patched(c, entry(c, "embedding.weight") + 2, "H", 5),
    "its shape is too large": lambda c: patched(c, entry(c, "embedding.weight") + 4, "Q", 2**62),
    "where its shape needs": lambda c: patched(c, entry(c, "embedding.weight") + 4, "Q", 36),
    "groups of 32 are unknown": lambda c: patched(c, entry(c, "embedding.weight") + 20, "I", 32),
    "its checksum is wrong": lambda c: patched(c, entry(c, "embedding.weight") + 24, "I", 1),
    "reaches beyond the end": lambda c: patched(c, entry(c, "embedding.weight") + 28, "Q", 2**40),
    "a multiple of 64": lambda c: patched(c, entry(c, "embedding.weight") + 28, "Q", 72),
    "overlaps": lambda c: patched(c, entry(c, "head.weight") + 28, "Q", 64),
}  # fmt: skip


@pytest.mark.parametrize("said", DAMAGES)
def test_damage_is_named_in_one_line(plain, file, content, said):
    file.write_bytes(DAMAGES[said](content))
    line = plain.error("-m", file)
    assert line.startswith(f"error: {file}: ")
    assert said in line


def test_every_cut_is_refused(plain, file, content):
    for size in [*range(0, 200, 23), *range(200, len(content), 3001)]:
        file.write_bytes(content[:size])
        plain.error("-m", file)


def test_what_the_metadata_say_must_fit(plain, file):
    model = small_model(mode="faithful", attention="first")
    tensors = {n: stored(v.numpy()) for n, v in model.state_dict().items()}
    metadata = architecture(model)
    for key, value, said in [
        ("runtime.arch", "transformer", "this runtime has no other family"),
        ("runtime.vocab_size", 38, "tensor embedding.weight: its shape must be 38 x 20"),
        ("runtime.vocab_size", 2**40, "too large"),
        ("runtime.d_model", 0, "d_model must lie in 1.."),
        ("runtime.num_heads", 3, "num_heads must divide d_model, got 3 and 20"),
        ("runtime.num_layers", 2, "tensor blocks.1.field_norm.weight: missing"),
        ("runtime.num_layers", 2**31 - 1, "more than there are tensors"),
        ("runtime.norm_eps", float("nan"), "must be finite"),
        ("runtime.norm_eps", 1, "must be f64"),
        ("runtime.activation", "relu", "must be gelu_erf or gelu_tanh, got relu"),
        ("runtime.head_bias", 1, "must be a truth value"),
        ("alias.x", "nothing", "names no tensor of the file"),
        ("alias.head.bias", "head.weight", "the file has a tensor of this name"),
        ("tokenizer.kind", "words", "must be bytes or bpe"),
        ("tokenizer.kind", "bpe", "tensor tokenizer.offsets: missing"),
        ("tokenizer.eot_id", 37, "no id of the model"),
    ]:
        file.write_bytes(file_bytes(metadata | {key: value}, tensors))
        assert said in plain.error("-m", file), said
    integers = stored(np.zeros((37, 20), np.int32))
    file.write_bytes(file_bytes(metadata, tensors | {"head.weight": integers}))
    assert "weights cannot be i32" in plain.error("-m", file)


def test_old_files_are_checked_too(plain, file):
    model = small_model(mode="faithful", attention="none")
    for write in (
        lambda: write_v1(file, model, "int8", np.arange(13) < 4),
        lambda: write_v2(file, model),
    ):
        write()
        content = file.read_bytes()
        for size in [*range(8, 130, 40), *range(130, len(content), 1501)]:
            file.write_bytes(content[:size])
            plain.error("-m", file)
        file.write_bytes(content + b"\0")
        plain.error("-m", file)
        for flags in (0x02, 0x48, 0x38):
            file.write_bytes(content[:6] + struct.pack("<H", flags) + content[8:])
            plain.error("-m", file)


def test_options_are_checked(plain, file, content):
    file.write_bytes(content)
    for arguments, said in [
        ([], "-m: give a model file"),
        (["-m"], "-m: give a value"),
        (["-m", file, "--frobnicate"], "--frobnicate: no such option"),
        (["-m", file, "-n", "-3"], "-n -3: the value does not fit"),
        (["-m", file, "-t", "nan"], "-t nan: the value does not fit"),
        (["-m", file, "--top-p", "0"], "--top-p 0: the value does not fit"),
        (["-m", file, "--threads", "0"], "--threads 0: the value does not fit"),
        (["-m", file, "--kernels", "mmx"], "no such kernels here"),
        (["-m", file, "--ids", "-p", "1,x"], "with --ids it must be ids"),
        (["-m", file, "--ids", "-p", "37"], "37 is no token: ids lie in 0..36"),
        (["-m", file, "--ids"], "give a prompt"),
        (["-m", file, "-p", "text"], "holds no tokenizer"),
        (["-m", file, "--published"], "only files of version 1 and 2"),
        (["-m", file.parent], "cannot be read"),
        (["-m", file.parent / "none"], "cannot be opened: No such file"),
        (["-m", file, "--ids", "-f", file.parent / "none"], "cannot be opened"),
    ]:
        if "no such kernels" in said:
            arguments += ["--ids", "-p", "1"]
        assert said in plain.error(*arguments), said
    assert plain.output("--help").startswith(b"crystal -m MODEL")
