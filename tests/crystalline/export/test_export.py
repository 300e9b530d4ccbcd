"""The command: files that read back and score alike, and one line for what is wrong."""

import json

import pytest
import torch

import crystalline
from crystalline.export import container
from crystalline.export.precisions import PRECISIONS
from tests.crystalline.export.untrained import FAITHFUL, TEXT, checkpoint
from tests.running import command, train

CRYSTAL = (
    "model=crystal", "model.capacity=20", "model.founders=8", "model.epochs=2",
    "tokenizer@data.tokenizer=bpe", "data.tokenizer.vocab_size=300",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crystal")
    return train(corpus, folder, *CRYSTAL, model="transformer")


def export(source, *more) -> int:
    return command("export.__main__", source, f"checkpoint={source}", *more).status


def test_every_precision_is_written_read_back_and_compared(finished, tmp_path, capfd):
    assert export(finished.folder, "precision=all", f"output={tmp_path}", "prune=null") == 0
    said = capfd.readouterr().err
    found = json.loads((tmp_path / "best.precisions.json").read_text())
    rows = {row["precision"]: row for row in found["rows"]}
    assert list(rows) == list(PRECISIONS)
    assert (tmp_path / "best.precisions.txt").read_text() in said + "\n"
    before = crystalline.load(finished.best)
    exact = rows["float32"]
    for name, row in rows.items():
        assert row["bytes"] == (tmp_path / f"best.{name}.crystal").stat().st_size
        assert row["loss"] == pytest.approx(exact["loss"], abs=0.05)
        assert row["delta"] == pytest.approx(row["loss"] - exact["loss"], abs=1e-9)
        assert row["agreement"] > 0.5
    assert exact["kl"] == pytest.approx(0, abs=1e-6)
    assert exact["loss"] == pytest.approx(finished.summary["val/loss"], abs=1e-4)
    assert exact["bpb"] == pytest.approx(finished.summary["val/bpb"], abs=1e-4)
    assert rows["int8_rows"]["share"] < exact["share"] == 1
    after = crystalline.load(tmp_path / "best.float32.crystal")
    assert after.step == before.step
    assert after.tokenizer.to_json() == before.tokenizer.to_json()
    tokens = torch.arange(16)[None]
    assert torch.allclose(after.model(tokens).logits, before.model(tokens).logits, atol=1e-6)


def test_a_pruned_export_is_a_checkpoint_for_the_other_commands(finished, tmp_path):
    output = tmp_path / "small.crystal"
    assert export(finished.folder, f"output={output}", "prune=train", "split=null") == 0
    assert command("evaluate", tmp_path, f"checkpoint={output}", "split=val").status == 0
    bpb = json.loads((tmp_path / "evaluation.json").read_text())["val/bpb"]
    assert bpb < finished.summary["val/bpb"]  # nothing is spent on tokens that do not occur
    assert crystalline.load(output).model.vocab_size < 300


def test_an_export_is_exported_again_with_a_text_for_its_vocabulary(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT[:20])
    first, second = tmp_path / "first.crystal", tmp_path / "second.crystal"
    assert export(checkpoint(tmp_path), f"output={first}", "split=null") == 0
    keys = (f"output={second}", f"prune={tmp_path / 'text.txt'}", "precision=int8", "split=null")
    assert export(first, *keys) == 0
    files = [container.read(path) for path in (first, second)]
    assert [file.metadata["export.precision"] for file in files] == ["int8_rows", "int8"]
    sizes = [file.metadata["runtime.vocab_size"] for file in files]
    assert sizes[0] > sizes[1] == len(files[1].tensors["tokenizer.original"].array())
    content = first.read_bytes()
    first.write_bytes(content[:-1])
    assert export(first) == 1


def test_an_old_layout_is_written_and_the_runtime_asked_for(tmp_path, monkeypatch):
    from crystalline.export.runtime import build, c_source

    asked = []
    monkeypatch.setattr(c_source, "write_c_source", lambda *a: asked.append(a))
    monkeypatch.setattr(build, "build", lambda *a: asked.append(a))
    source = checkpoint(tmp_path, **FAITHFUL)
    keys = ("layout=v1", "precision=int16", "target=c_source", "build=true")
    assert export(source, *keys) == 0
    output = tmp_path / "model.int16.v1.crystal"
    assert container.version_of(output) == 1
    assert asked == [(output, tmp_path / "model.int16.v1_source"), (tmp_path / "runtime",)]


def test_what_is_wrong_is_one_line(tmp_path, capfd):
    source = checkpoint(tmp_path)
    for key, line in {
        "prune=nowhere.txt": "there is no such file",
        f"output={source}": "the checkpoint itself",
    }.items():
        assert export(source, key, "split=null") == 1
        assert line in capfd.readouterr().err
