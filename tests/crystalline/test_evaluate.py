"""Scores of a checkpoint: the run's own, on its own corpus and on others."""

import json
import math

import pytest

import crystalline
from tests.running import command, train


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """A tiny Ziggurat, trained."""
    return train(corpus, tmp_path_factory.mktemp("ziggurat"))


def evaluate(finished, *more: str):
    return command("evaluate", finished.folder, f"checkpoint={finished.best}", *more)


def test_the_scores_are_those_of_the_run_and_lie_beside_it(finished, capfd):
    assert evaluate(finished, "split=all").status == 0
    found = json.loads((finished.folder / "evaluation.json").read_text())
    for split in ("val", "test", "train"):
        for figure in ("loss", "bpb", "perplexity"):
            name = f"{split}/{figure}"
            assert found[name] == pytest.approx(finished.summary[name], rel=1e-9)
    assert found["data"] == "text"
    assert found["steps"] == finished.summary["best_step"]
    lines = [line.split() for line in capfd.readouterr().err.splitlines()]
    assert ["test", f"{found['test/loss']:.4f}", f"{found['test/bpb']:.4f}"] in [
        line[:3] for line in lines
    ]


def test_codebook_usage_is_that_of_the_scored_split(finished, tmp_path):
    output = tmp_path / "scores.json"
    assert evaluate(finished, "split=val", f"output={output}").status == 0
    found = json.loads(output.read_text())
    assert not any(name.startswith(("test/", "train/")) for name in found)
    sites = set(crystalline.load(finished.best).model.codebooks())
    assert {n.removeprefix("val/codebook/usage/") for n in found if "/usage/" in n} == sites
    assert 0 < found["val/codebook/usage"] <= 1
    assert 1 <= found["val/codebook/perplexity"] <= 8


def test_another_corpus_is_read_with_the_tokenizer_of_the_checkpoint(finished, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("Words of another kind, 1234. " * 60)
    output = tmp_path / "scores.json"
    # data=text brings a BPE of its own, which must not be used.
    status = evaluate(finished, "data=text", f"data.path={other}", f"output={output}").status
    assert status == 0
    found = json.loads(output.read_text())
    assert found["data_fingerprint"] != finished.summary["data_fingerprint"]
    bytes_per_token = found["test/loss"] / math.log(2) / found["test/bpb"]
    assert bytes_per_token == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["data=fsm"], "data=fsm has another vocabulary (11 ids) than the checkpoint (257 ids)"),
        (["split=tset"], "split must be one of val, test, train, all, got 'tset'"),
        (["data=lovecarft"], "data=lovecarft: there is no such data; did you mean lovecraft?"),
        (["checkpoint=null"], "checkpoint: give checkpoint=<run>/checkpoints/last.ckpt"),
        (["data=text", "data.path=nowhere"], "data.path=nowhere"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(finished, capfd, arguments, line):
    assert evaluate(finished, *arguments).status == 1
    said = capfd.readouterr().err
    assert said.startswith("crystalline.evaluate: ")
    assert line in said
    assert said.count("\n") == 1
