import json

import numpy as np
import pytest
import torch

from crystalline.errors import UserError
from datamodules.batch import IGNORED
from datamodules.tasks import TASKS, TasksDataModule
from tests.running import command, train

OPTIONS = {
    "vocab_size": 20,
    "gap": 4,
    "p_copy": 0.5,
    "pairs": 5,
    "queries": 3,
    "hops": 2,
    "kinds": 3,
    "depth": 4,
    "topics": 3,
    "stay": 0.9,
}


def module(task="induction", seq_len=40, score="all", seed=0, batch_size=8, **options):
    data = TasksDataModule(task, seq_len, score, batch_size, 512, seed, **(OPTIONS | options))
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("task", TASKS)
def test_batches_are_sequences_of_the_task(task):
    data = module(task)
    batch = data.train_batch(3)
    assert batch.tokens.shape == batch.targets.shape == (8, data.seq_len) == (8, 40)
    assert batch.tokens.dtype == batch.targets.dtype == torch.int64
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    assert (batch.tokens[:, 0] == data.tokenizer.eot_id).all()
    assert int(batch.tokens.max()) < data.vocab_size == len(data.task.words) + 1


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_is_a_function_of_seed_and_round(task):
    first, second = module(task), module(task)
    second.train_batch(0)
    assert torch.equal(first.train_batch(5).tokens, second.train_batch(5).tokens)
    assert not torch.equal(first.train_batch(5).tokens, first.train_batch(6).tokens)
    assert not torch.equal(first.train_batch(5).tokens, module(task, seed=1).train_batch(5).tokens)


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_sequences_are_fixed_and_apart(task):
    first, second = module(task, seed=0), module(task, seed=1)
    val = torch.cat([b.tokens for b in first.val_dataloader()])
    test = torch.cat([b.tokens for b in first.test_dataloader()])
    assert len(val) == len(test) == 2048
    assert torch.equal(val, torch.cat([b.tokens for b in second.val_dataloader()]))
    assert not {tuple(row) for row in val.tolist()} & {tuple(row) for row in test.tolist()}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("rows", [1, 8])
def test_answers_alone_may_be_scored(task, rows):
    every, some = module(task, batch_size=rows), module(task, score="answers", batch_size=rows)
    whole, part = every.train_batch(0), some.train_batch(0)
    assert torch.equal(whole.tokens, part.tokens)
    answers = torch.from_numpy(every.task.answers(whole.targets.numpy()))
    assert torch.equal(part.targets, whole.targets.masked_fill(~answers, IGNORED))
    assert answers.any()
    assert every.fingerprint != some.fingerprint


@pytest.mark.parametrize("score", ["all", "answers"])
def test_the_best_loss_is_that_of_the_scored_targets_of_a_split(score):
    data = module("lookup", score=score, vocab_size=5)
    batch = data.eval_windows("val", np.arange(2048))
    scored = (batch.targets != IGNORED).numpy()
    chance = data.task.law(data.eval_drawn("val").tokens[:, 1:]).chance
    best = data.bayes("val", score)
    assert best.loss == pytest.approx(-np.log(chance[scored]).mean(), abs=1e-9)
    assert f"best possible on val, {score}: loss {best.loss:.4f}" in "\n".join(data.describe())
    if score == "answers":
        assert best == (0, 1)


def test_a_split_without_answers_has_no_best_loss(monkeypatch):
    monkeypatch.setattr("datamodules.generated.EVAL_SEQUENCES", 2)
    data = module(seq_len=6, vocab_size=10_000)
    with pytest.raises(UserError, match=r"data\.seq_len=6: no sequence of val has an answer"):
        data.bayes("val", "answers")
    assert "best possible on val, all" in "\n".join(data.describe())
    assert "best possible on val, answers" not in "\n".join(data.describe())


def test_generated_words_are_no_text():
    data = module()
    assert (data.is_text, data.split_bytes, data.train_tokens()) == (False, None, None)
    assert data.tokenizer.decode([20, 3, 17]) == " 3 17"
    assert module(p_copy=0.6).fingerprint != data.fingerprint == module(hops=1).fingerprint


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"task": "copy"}, r"data\.task must be one of delayed_copy, induction, lookup, dyck, top"),
        ({"score": "some"}, r"data\.score must be one of all, answers, got 'some'"),
        ({"vocab_size": 1}, r"data\.vocab_size must be at least 2, got 1"),
        ({"p_copy": 1.5}, r"data\.p_copy must lie between 0\.0 and 1\.0, got 1\.5"),
        ({"task": "dyck", "kinds": 0}, r"data\.kinds must be at least 1, got 0"),
        ({"task": "topics", "topics": 1}, r"data\.topics must be at least 2, got 1"),
        ({"gap": 40}, r"data\.seq_len=40 is too short .*task=induction .* give 42 or more"),
        ({"task": "lookup", "seq_len": 12}, r"data\.seq_len=12 is too short .* give 13 or more"),
        ({"gapp": 3}, r"data\.gapp: data=tasks has no such key; its tasks have depth, gap, hops"),
    ],
)
def test_bad_choices_are_user_errors(choice, message):
    with pytest.raises(UserError, match=message):
        module(**choice)


def test_a_run_and_its_evaluation_score_the_answers(corpus, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("datamodules.generated.EVAL_SEQUENCES", 64)
    choice = ("data.task=lookup", "data.pairs=4", "data.queries=2")
    run = train(corpus, tmp_path, *choice, "data.score=answers", data="tasks")
    assert run.status == 0, capfd.readouterr().err
    for split in ("val", "test", "train"):
        assert run.summary[f"{split}/bpb"] is None
        assert 0 < run.summary[f"{split}/loss"] < 9
        assert 0 <= run.summary[f"{split}/accuracy"] <= 1
        assert run.summary[f"{split}/code_bits"] > 0
    output = tmp_path / "all.json"
    typed = (f"checkpoint={run.best}", "data=tasks", *choice, f"output={output}", "split=val")
    assert command("evaluate", tmp_path, *typed).status == 0, capfd.readouterr().err
    assert json.loads(output.read_text())["val/loss"] != run.summary["val/loss"]
