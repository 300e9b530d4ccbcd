"""Checkpoints stand alone, and damage is one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import crystalline
from crystalline import checkpoint
from crystalline.errors import UserError
from tests.running import Finished, environment, experiment, resume, train


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> Finished:
    return train(corpus, tmp_path_factory.mktemp("finished"))


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    """A checkpoint with its checksum, free to be spoilt."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("last.ckpt", "last.ckpt.sha256"):
        (folder / name).write_bytes((finished.last.parent / name).read_bytes())
    return folder / "last.ckpt"


@pytest.mark.parametrize("model", ["transformer", "ziggurat"])
def test_the_loaded_model_has_the_logits_of_the_trained_one(corpus, tmp_path, model):
    trained = experiment(corpus, tmp_path, "model.dropout=0.3", model=model)
    trained.run()
    loaded = crystalline.load(tmp_path / "checkpoints" / "best.ckpt")
    tokens = torch.tensor([loaded.tokenizer.encode("a test of it")])
    trained.model.eval()
    assert not loaded.model.training
    assert torch.equal(loaded.model(tokens).logits, trained.model(tokens).logits)
    assert loaded.step == 4
    assert loaded.tokenizer.to_json() == trained.data.tokenizer.to_json()


def test_a_checkpoint_holds_only_tensors_and_plain_containers(finished):
    state = torch.load(finished.last, weights_only=True)
    entry = state["crystalline"]
    assert entry["vocab_size"] == 257
    assert entry["data_fingerprint"] == finished.summary["data_fingerprint"]
    assert entry["config"]["model"]["d_model"] == 16
    assert entry["config"]["seed"] == 0
    assert set(entry["versions"]) >= {"python", "torch", "crystalline"}


def test_the_config_comes_back_resolved(finished):
    config = crystalline.load(finished.last).config
    assert config["data"]["seq_len"] == 16  # ${model.context_length}
    assert config["objective"]["codebook_lr"] == pytest.approx(0.1 * config["optimizer"]["lr"])


@pytest.mark.slow
def test_a_checkpoint_loads_in_a_process_that_knows_nothing_of_the_run(finished, tmp_path):
    code = (
        "import sys, crystalline\n"
        "loaded = crystalline.load(sys.argv[1])\n"
        "print(type(loaded.model).__name__, loaded.tokenizer.decode(loaded.tokenizer.encode('ab')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(finished.last)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "Ziggurat ab\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def truncated_without_checksum(path: Path) -> None:
    truncated(path)
    path.with_name("last.ckpt.sha256").unlink()


def foreign(path: Path) -> None:
    path.with_name("last.ckpt.sha256").unlink()
    torch.save({"state_dict": {"w": torch.ones(2)}}, path)


def pickled(path: Path) -> None:
    path.with_name("last.ckpt.sha256").unlink()
    torch.save({"crystalline": Finished(0, Path())}, path)


def text(path: Path) -> None:
    path.with_name("last.ckpt.sha256").unlink()
    path.write_text("not a checkpoint\n")


def newer(path: Path) -> None:
    state = checkpoint.read(path)
    state["crystalline"] |= {"format": 99, "versions": {"crystalline": "9.9"}}
    checkpoint.write(state, path)


def of_another_model(path: Path) -> None:
    state = checkpoint.read(path)
    state["state_dict"] = {"model.embedding.weight": torch.ones(257, 32)}
    checkpoint.write(state, path)


SPOILT = {
    flipped: "damaged (its checksum differs)",
    truncated: "damaged (its checksum differs)",
    truncated_without_checksum: "is damaged or no checkpoint",
    text: "is damaged or no checkpoint",
    pickled: "is damaged or no checkpoint",
    foreign: "is no checkpoint of this suite",
    newer: "use the version that wrote it: 9.9",
    of_another_model: "holds weights of another model",
    Path.unlink: "there is no checkpoint",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__)
def test_a_checkpoint_that_cannot_be_used_is_one_line_that_names_it(copy, spoil):
    spoil(copy)
    with pytest.raises(UserError) as caught:
        crystalline.load(copy)
    said = str(caught.value)
    assert SPOILT[spoil] in said
    assert str(copy) in said
    assert "\n" not in said


@pytest.mark.parametrize("spoil", [flipped, foreign, of_another_model])
def test_resuming_from_it_is_one_line_too(copy, spoil, capfd):
    spoil(copy)
    assert resume(copy, "trainer.max_steps=9").status == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("crystalline.run: ")
    assert SPOILT[spoil] in said


def test_a_crash_between_the_two_renames_leaves_a_pair_that_verifies(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    entry = {"format": checkpoint.FORMAT, "config": {}}
    checkpoint.write({"crystalline": entry, "round": 1}, path)
    import crystalline.files

    replace, done = crystalline.files.os.replace, []

    def crash_after(count):
        def crashing(source, target):
            if len(done) == count:
                raise KeyboardInterrupt  # nothing below catches it, as for a killed process
            done.append(target)
            replace(source, target)

        done.clear()
        return crashing

    for renames, expected in ((0, 1), (1, 1), (2, 2)):
        monkeypatch.setattr("crystalline.files.os.replace", crash_after(renames))
        with pytest.raises(KeyboardInterrupt):
            checkpoint.write({"crystalline": entry, "round": 2}, path)
        assert checkpoint.read(path)["round"] == expected
