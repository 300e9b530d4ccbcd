"""When checkpoints are written, and what is left when writing fails."""

import errno

import pytest
import torch

from callbacks.checkpoint import Checkpoint
from crystalline import checkpoint
from tests.running import resume, train


def test_best_is_the_lowest_validation_loss_and_last_the_last_round(corpus, tmp_path):
    run = train(
        corpus,
        tmp_path,
        "trainer.max_steps=9",
        "trainer.val_check_interval=1",
        "optimizer.lr=3.0",  # rises and falls
        "objective.clip=null",
        "objective.schedule.warmup_steps=4",
        model="transformer",
    )
    losses = [float(value) for value in run.column("val/loss")]
    lowest = losses.index(min(losses)) + 1
    assert lowest < 9  # else the two files would be the same
    assert checkpoint.read(run.best)["global_step"] == lowest == run.summary["best_step"]
    assert checkpoint.read(run.last)["global_step"] == 9
    # The best weights are the ones that are scored at the end.
    assert run.summary["val/loss"] == pytest.approx(min(losses), abs=1e-9)


def test_a_resumed_run_remembers_its_best(corpus, tmp_path):
    options = ("trainer.val_check_interval=1", "callbacks.checkpoint.every_n_steps=1")
    run = train(corpus, tmp_path, *options, "trainer.max_steps=3", model="transformer")
    state = checkpoint.read(run.last)
    keeper = next(v for k, v in state["callbacks"].items() if k.startswith("Checkpoint"))
    keeper["best_value"] = 0.5  # nothing that follows is as good
    checkpoint.write(state, run.last)
    best = run.best.read_bytes()
    assert resume(run.last, "trainer.max_steps=5").status == 0
    assert run.best.read_bytes() == best


@pytest.mark.slow
def test_a_checkpoint_that_is_taken_elsewhere_alone_finds_a_new_best(corpus, tmp_path):
    run = train(corpus, tmp_path / "here", model="transformer")
    state = checkpoint.read(run.last)
    elsewhere = tmp_path / "there" / "checkpoints" / "last.ckpt"
    checkpoint.write(state, elsewhere)
    moved = resume(elsewhere, "trainer.max_steps=5")
    assert moved.status == 0
    assert moved.folder == tmp_path / "there"
    assert moved.summary["best_step"] == 5
    assert run.summary["steps"] == 4


@pytest.mark.slow
def test_minutes_make_checkpoints_too(corpus, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        Checkpoint, "_save", lambda self, trainer, name: saved.append(trainer.global_step)
    )
    options = ("callbacks.checkpoint.every_n_steps=null", "trainer.val_check_interval=100")
    train(corpus, tmp_path / "a", *options, "callbacks.checkpoint.every_minutes=0")
    assert saved == [1, 2, 3, 4, 4]  # and the best of the last validation
    saved.clear()
    train(corpus, tmp_path / "b", *options, "callbacks.checkpoint.every_minutes=null")
    assert saved == [4, 4]


def test_loggers_write_what_waits_before_each_checkpoint(corpus, tmp_path, monkeypatch):
    from callbacks.csv_logger import CSVLogger

    order = []
    monkeypatch.setattr(CSVLogger, "flush", lambda self: order.append("flush"), raising=False)
    write = checkpoint.write
    monkeypatch.setattr(
        checkpoint, "write", lambda state, path: (order.append(path.name), write(state, path))
    )
    train(corpus, tmp_path, model="transformer")
    assert order == ["flush", "best.ckpt", "flush", "last.ckpt"]


def test_a_full_disk_leaves_the_last_good_checkpoint_and_says_so(
    corpus, tmp_path, monkeypatch, capfd
):
    saves, save = [], torch.save

    def full(state, path):
        saves.append(path)
        if len(saves) > 1:
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    run = train(
        corpus,
        tmp_path,
        "trainer.max_steps=8",
        "trainer.val_check_interval=100",
        "callbacks.checkpoint.every_n_steps=3",
    )
    assert run.status == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("crystalline.run: the disk is full")
    assert "free some space, then resume from checkpoints/last.ckpt" in said
    assert checkpoint.read(run.last)["global_step"] == 3
    assert {path.name for path in run.last.parent.iterdir()} == {"last.ckpt", "last.ckpt.sha256"}


def test_a_monitor_that_is_not_measured_is_one_line(corpus, tmp_path, capfd):
    run = train(corpus, tmp_path, "callbacks.checkpoint.monitor=val/bpd", model="transformer")
    assert run.status == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("crystalline.run: callbacks.checkpoint.monitor=val/bpd is not measured")


def test_a_run_without_the_callback_writes_no_checkpoint_and_scores_its_last_weights(
    corpus, tmp_path
):
    run = train(corpus, tmp_path, "~callbacks.checkpoint", model="transformer")
    assert not (tmp_path / "checkpoints").exists()
    assert run.summary["best_step"] is None
    assert run.summary["val/loss"] == pytest.approx(float(run.column("val/loss")[-1]), abs=1e-9)
