"""The commands `compress` and `decompress`: files come back, and mistakes are one line."""

import lzma
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from crystalline import checkpoint
from crystalline.compress import compress
from crystalline.compression import container
from crystalline.decompress import decompress
from crystalline.errors import UserError
from crystalline.tokenizer import ByteTokenizer, DigitTokenizer, Tokenizer
from tests.composing import composed
from tests.crystalline.export.untrained import tokenizer as bpe
from tests.running import command, process

SMALL = ("model.d_model=16", "model.num_heads=2", "model.context_length=24")
ABSTRACTINATOR = (
    *("model=abstractinator", "model.entropy.d_model=8", "model.entropy.num_layers=1"),
    *("model.entropy.num_heads=2", "model.top.d_model=8", "model.top.num_layers=1"),
    *("model.top.num_heads=2", "model.expander.num_layers=1", "model.segmentation.max_length=4"),
    *("model.quantizer.codebook_size=16", "model.quantizer.codebook_dim=8"),
)
MODELS = {
    "transformer": ("model=transformer", "model.num_layers=1"),
    "conditional": ABSTRACTINATOR,
    "discrete": (*ABSTRACTINATOR, "model.mode=discrete"),
}
CONTENT = b"The old house, the older sea.\n" + bytes([0, 255, 128, 10, 254])


def untrained(folder: Path, name: str, tokenizer: Tokenizer | None = None) -> Path:
    """A checkpoint of a model that has learned nothing."""
    tokenizer = tokenizer or ByteTokenizer()
    config = OmegaConf.to_container(composed(*MODELS[name], *SMALL).model, resolve=True)
    torch.manual_seed(0)
    model = instantiate(config, vocab_size=tokenizer.vocab_size, _convert_="all")
    entry = {
        "format": checkpoint.FORMAT, "config": {"model": config}, "choices": {}, "overrides": [],
        "tokenizer": tokenizer.to_json(), "vocab_size": tokenizer.vocab_size,
        "data_fingerprint": "0", "mlflow_run_id": None, "versions": {},
    }  # fmt: skip
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    path = folder / f"{name}.ckpt"
    checkpoint.write({"crystalline": entry, "state_dict": weights, "global_step": 0}, path)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("saved")
    return {name: untrained(folder, name) for name in MODELS}


def config_of(root: str, saved: Path, source: Path, target: Path, **more):
    config = composed(root=root)
    config.merge_with(
        {"checkpoint": str(saved), "input": str(source), "output": str(target), **more}
    )
    return config


@pytest.fixture(scope="module")
def small(saved, tmp_path_factory) -> bytes:
    """What a transformer makes of the content."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "in.txt").write_bytes(CONTENT)
    compress(config_of("compress", saved["transformer"], folder / "in.txt", folder / "out"))
    return (folder / "out").read_bytes()


@pytest.fixture
def packed(small, tmp_path) -> Path:
    """A file of it, beside the original, free to be spoilt."""
    (tmp_path / "in.txt").write_bytes(CONTENT)
    path = tmp_path / "packed.crz"
    path.write_bytes(small)
    return path


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_any_bytes_comes_back_and_its_size_is_told(saved, tmp_path, name):
    source, small, back = (tmp_path / each for each in ("in", "small", "back"))
    source.write_bytes(CONTENT)
    found = compress(config_of("compress", saved[name], source, small))
    decompress(config_of("decompress", saved[name], small, back))
    assert back.read_bytes() == CONTENT
    size, bits = small.stat().st_size, found["model_bits"]
    assert found["compressed_bytes"] == size
    assert found["bits_per_byte"] == 8 * size / len(CONTENT)
    assert found["lzma_bytes"] == len(lzma.compress(CONTENT, preset=9 | lzma.PRESET_EXTREME))
    carried, ideal = 8 * (size - found["header_bytes"]), sum(bits.values())
    assert abs(carried - ideal) <= 0.001 * ideal + 64
    assert set(bits) == ({"token", "code", "end"} if name == "discrete" else {"token"})
    assert bits["token"] == pytest.approx(8 * len(CONTENT), rel=0.1)  # it has learned nothing


@pytest.mark.parametrize("content", [b"", b"\xff"])
def test_an_empty_file_and_one_byte_come_back(saved, tmp_path, content):
    source, small, back = (tmp_path / each for each in ("in", "small", "back"))
    source.write_bytes(content)
    found = compress(config_of("compress", saved["discrete"], source, small))
    decompress(config_of("decompress", saved["discrete"], small, back))
    assert back.read_bytes() == content
    assert (found["bits_per_byte"] is None) == (not content)


def test_a_tokenizer_of_pieces_codes_text_and_refuses_other_bytes(tmp_path):
    path = untrained(tmp_path, "transformer", bpe())
    source, small, back = (tmp_path / each for each in ("in", "small", "back"))
    source.write_text("no tan stone, ran – on")
    compress(config_of("compress", path, source, small))
    decompress(config_of("decompress", path, small, back))
    assert back.read_bytes() == source.read_bytes()
    source.write_bytes(CONTENT)
    with pytest.raises(UserError, match="does not give this file back unchanged"):
        compress(config_of("compress", path, source, small))
    source.write_text("12 34")  # digits lose the space
    path = untrained(tmp_path, "transformer", DigitTokenizer())
    with pytest.raises(UserError, match="take a checkpoint that reads bytes"):
        compress(config_of("compress", path, source, small))


def rewritten(path: Path, **changes) -> None:
    """With another header, and a checksum that agrees."""
    header, payload = container.unpack(path.read_bytes(), "")
    path.write_bytes(container.pack(replace(header, **changes), payload))


def test_another_machine_is_refused_unless_forced(saved, packed, tmp_path):
    setting = container.unpack(packed.read_bytes(), "")[0].setting
    rewritten(packed, setting=replace(setting, torch="1.0", device="cpu Z80"))
    back = tmp_path / "back"
    config = config_of("decompress", saved["transformer"], packed, back)
    with pytest.raises(UserError, match=r"with device cpu Z80 \(here cpu .*\), torch 1.0 \(here"):
        decompress(config)
    assert not back.exists()
    config.force = True
    decompress(config)
    assert back.read_bytes() == CONTENT


def test_as_many_threads_are_used_as_the_file_was_compressed_with(saved, tmp_path):
    source, small, back = (tmp_path / each for each in ("in", "small", "back"))
    source.write_bytes(CONTENT)
    compress(config_of("compress", saved["transformer"], source, small, threads=2))
    before = torch.get_num_threads()
    decompress(config_of("decompress", saved["transformer"], small, back))
    assert torch.get_num_threads() == before == 1
    assert back.read_bytes() == CONTENT


@pytest.mark.parametrize("changes", [{"crc32": 1}, {"num_tokens": 7}, {"num_bytes": 1}])
def test_a_text_that_does_not_come_back_is_not_written(saved, packed, tmp_path, changes):
    rewritten(packed, **changes)
    with pytest.raises(UserError, match="does not come back"):
        decompress(config_of("decompress", saved["transformer"], packed, tmp_path / "back"))
    assert not (tmp_path / "back").exists()


def test_another_checkpoint_is_refused(saved, packed, tmp_path):
    config = config_of("decompress", saved["discrete"], packed, tmp_path / "back", force=True)
    with pytest.raises(UserError, match="was compressed with another one"):
        decompress(config)


WRONG = [
    ("compress", {"input": "nowhere"}, "input=nowhere: no such file"),
    ("compress", {"output": "null"}, "give output=<file>"),
    ("compress", {"checkpoint": "null"}, "checkpoint: give checkpoint=<run>/checkpoints/last.ckpt"),
    ("compress", {"threads": "0"}, "threads=0: give 1 or more"),
    ("decompress", {"input": "null"}, "give input=<file>"),
    ("decompress", {"output": "packed.crz"}, "give another file than the input"),
    ("decompress", {"force": "perhaps"}, "force=perhaps: give true or false"),
    ("decompress", {"input": "in.txt"}, "is no file that crystalline.compress wrote"),
]


@pytest.mark.parametrize(("work", "wrong", "line"), WRONG)
def test_what_a_user_gets_wrong_is_one_line(
    saved, packed, tmp_path, monkeypatch, capfd, work, wrong, line
):
    monkeypatch.chdir(tmp_path)
    given = {"checkpoint": str(saved["transformer"]), "input": "packed.crz", "output": "new"}
    typed = [f"{key}={value}" for key, value in {**given, **wrong}.items()]
    assert command(work, tmp_path, *typed).status == 1
    said = capfd.readouterr().err
    assert said.startswith(f"crystalline.{work}: ")
    assert line in said
    assert said.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("unchecked")
def test_another_process_brings_back_what_a_command_made_smaller(
    saved, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my file (1).txt").write_bytes(CONTENT)
    of = f"checkpoint={saved['discrete']}"
    typed = (of, "input=my file (1).txt", "output=small.crz")
    assert command("compress", tmp_path, *typed).status == 0
    lines = [line.split() for line in capfd.readouterr().err.splitlines()]
    size = (tmp_path / "small.crz").stat().st_size
    assert ["original", str(len(CONTENT)), "8.0000"] in lines
    assert ["compressed", str(size), f"{8 * size / len(CONTENT):.4f}"] in lines
    assert {"zlib", "bz2", "lzma"} <= {line[0] for line in lines}
    done = process("decompress", tmp_path, of, "input=small.crz", "output=back")
    assert done.status == 0, done.err
    assert (tmp_path / "back").read_bytes() == CONTENT
