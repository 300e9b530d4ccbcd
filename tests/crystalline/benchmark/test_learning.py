"""`suite=vocab` at the size of a unit test: rows, files, failures, budgets."""

import json
import math

import pytest

from crystalline.benchmark import learning
from crystalline.benchmark.learning_table import Row, cells, ranked, text
from tests.running import command

TINY = (
    *("trainer=cpu", "data=text", "data.tokenizer.vocab_size=260", "data.batch_size=2"),
    *("data.eval_batch_size=256", "model.context_length=8", "+model.num_steps=1"),
    *("baseline.num_layers=1", "baseline.num_heads=1", "validations=1", "ngram_orders=[1,2]"),
)


def benchmark(corpus, folder, *typed):
    own = (f"data.path={corpus}", f"output={folder}/found.json", "suite=vocab", *TINY)
    return command("benchmark.__main__", folder, *own, *typed)


def test_models_transformers_ngrams_and_references_share_a_table(corpus, tmp_path, capfd):
    done = benchmark(corpus, tmp_path, "models=[v9_meta]", "tokens=100", "+model.d_state=4")
    said = capfd.readouterr()
    assert done.status == 0, said.err
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    names = {"v9_meta", "transformer like v9_meta", "1-gram", "2-gram"}
    assert set(rows) == {*names, "reference 1.0", "reference 0.93"}
    losses = [row["val_loss"] for row in found["rows"]]
    assert losses == sorted(losses)
    assert rows["2-gram"]["val_loss"] < rows["1-gram"]["val_loss"] < math.log(260)
    ratios = {round(row["val_loss"] / row["val_bpb"], 9) for row in found["rows"]}
    assert len(ratios) == 1  # the same text, in nats a token and bits a byte
    model, transformer = rows["v9_meta"], rows["transformer like v9_meta"]
    assert model["steps"] == transformer["steps"] == 100 // 16
    assert abs(transformer["parameters"] / model["parameters"] - 1) < 0.1
    summary = json.loads((tmp_path / "found" / "v9_meta" / "summary.json").read_text())
    assert summary["val/loss"] == model["val_loss"]
    assert summary["choices"]["model"] == "vocab/v9_meta"
    for name in names:
        assert name in said.out
        assert name in (tmp_path / "found.md").read_text()
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_that_fails_is_a_row_and_the_next_one_runs(corpus, tmp_path, capfd, monkeypatch):
    leaks = iter(["scores at position 3 depend on token 4", None])
    monkeypatch.setattr(learning, "first_leak", lambda model: next(leaks))
    typed = ("models=[v8_graph,v9_meta]", "minutes=0.001", "transformers=false")
    assert benchmark(corpus, tmp_path, *typed).status == 0
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    failed = next(row for row in rows if row["name"] == "v8_graph")
    assert (failed["status"], failed["val_loss"]) == ("failed", None)
    assert failed["error"] == "not causal: scores at position 3 depend on token 4"
    assert rows[-1] == failed
    other = next(row for row in rows if row["name"] == "v9_meta")
    assert other["val_loss"] > 0
    assert other["steps"] >= 1
    assert "not causal" in capfd.readouterr().out
    assert "UserError" in (tmp_path / "found" / "v8_graph" / "error.txt").read_text()


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("models=[v9_metta]", "models: there is no 'v9_metta'; did you mean v9_meta?"),
        ("minutes=0", "minutes=0: give more than 0"),
        ("tokens=-1", "tokens=-1: give more than 0"),
        ("trainer.devices=2", "trainer.devices=1"),
        ("+model.hops=3", "model.hops: v9_meta has no such option"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(corpus, tmp_path, capfd, typed, line):
    assert benchmark(corpus, tmp_path, "models=v9_meta", typed).status == 1
    said = capfd.readouterr().err.splitlines()
    assert line in said[-1]
    assert said[-1].startswith("crystalline.benchmark: ")


def test_rows_without_a_score_come_last_and_show_their_error():
    rows = [
        Row("a", "model", status="failed", error="no memory"),
        Row("b", "model", 5, 2.0, 1.0, steps=1000),
        Row("c", "n-gram", 5, 1.5, None),
    ]
    assert [row.name for row in ranked(rows)] == ["c", "b", "a"]
    assert cells(rows[0])["status"] == "failed: no memory"
    assert cells(rows[1])["steps"] == "1,000"
    assert "no memory" in text(rows)
