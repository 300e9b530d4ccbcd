"""A killed run goes on as if nothing had happened."""

import signal

from tests.running import arguments, process, resume, train

OPTIONS = (
    "trainer.max_steps=12",
    "trainer.val_check_interval=6",
    "callbacks.checkpoint.every_n_steps=4",
    "callbacks.dead_codes={every_n_steps: 3, idle_positions: 30, max_fraction: 0.5, until: 1.0}",
    "model.dropout=0.2",
    "objective.accumulate=2",
)


def test_every_loss_after_a_kill_equals_that_of_an_unbroken_run(
    corpus, tmp_path, monkeypatch, capfd
):
    whole = train(corpus, tmp_path / "whole", *OPTIONS)
    kill = "+callbacks.stop={_target_: tests.running.Stop, step: 10, signal: SIGKILL}"
    typed = arguments(corpus, tmp_path / "broken", *OPTIONS, kill)
    first = process("run", tmp_path, *typed)
    assert first.status == -signal.SIGKILL
    last = tmp_path / "broken" / "checkpoints" / "last.ckpt"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRYSTALLINE_TEST_NO_STOP", "1")
    broken = resume(last)
    said = capfd.readouterr().err
    assert broken.status == 0, said
    assert "resuming at round 8" in said  # in the middle of an epoch; rounds 9, 10 come again
    assert broken.losses() == whole.losses()
    assert broken.summary["test/loss"] == whole.summary["test/loss"]
    assert not (tmp_path / "outputs").exists()
