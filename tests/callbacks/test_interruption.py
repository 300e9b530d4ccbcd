"""Signals end a run after the round at hand."""

import signal

import pytest
from lightning import LightningModule, Trainer

from callbacks.bucket_dump import BucketDump
from crystalline import checkpoint
from tests.running import resume, train


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_ends_the_run_after_its_round_with_the_state_saved(
    corpus, tmp_path, capfd, name, status
):
    before = signal.getsignal(getattr(signal, name))
    stop = f"+callbacks.stop={{_target_: tests.running.Stop, step: 2, signal: {name}}}"
    run = train(corpus, tmp_path, "trainer.max_steps=6", stop, model="transformer")
    assert run.status == status
    assert signal.getsignal(getattr(signal, name)) == before
    assert checkpoint.read(run.last)["global_step"] == 3
    assert not (tmp_path / "summary.json").exists()
    said = capfd.readouterr().err
    assert f"{name}: stopping after this round" in said
    assert "go on with ckpt_path=" in said.splitlines()[-1]
    assert resume(run.last).status == 0
    assert run.summary["steps"] == 6


def test_a_second_ctrl_c_ends_the_run_at_once(corpus, tmp_path, capfd):
    stop = (
        "+callbacks.first={_target_: tests.running.Stop, step: 2, signal: SIGINT}",
        "+callbacks.second={_target_: tests.running.Stop, step: 2, signal: SIGINT}",
    )
    before = signal.getsignal(signal.SIGINT)
    run = train(corpus, tmp_path, *stop, "callbacks.checkpoint.every_n_steps=1")
    assert run.status == 130
    assert capfd.readouterr().err.splitlines()[-1] == "crystalline.run: interrupted"
    assert checkpoint.read(run.last)["global_step"] == 2
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("interrupted", [False, True])
def test_nothing_that_takes_time_follows_a_signal(monkeypatch, interrupted):
    dump = BucketDump(
        every_n_steps=0, positions=10, split="val", top_buckets=1, top_strings=1, sort="count",
        baselines=False,
    )  # fmt: skip
    ran = []
    monkeypatch.setattr(dump, "_run", lambda *_, **__: ran.append(True))
    module = LightningModule()
    module.interrupted = interrupted
    dump.on_train_end(Trainer(logger=False, enable_checkpointing=False), module)
    assert bool(ran) is not interrupted
