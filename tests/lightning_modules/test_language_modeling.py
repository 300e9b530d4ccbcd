"""Rounds: what they count, what they accumulate, and what they log."""

import math

import pytest
import torch

from tests.running import train


def saved(finished) -> dict:
    return torch.load(finished.last, weights_only=True)


@pytest.mark.parametrize("objective", ["dual", "single"])
def test_max_steps_is_a_number_of_rounds_for_counters_schedules_and_optimizers(
    corpus, tmp_path, objective
):
    run = train(corpus, tmp_path, f"objective={objective}", "trainer.max_steps=7")
    assert [row["step"] for row in run.rows] == [str(step) for step in range(1, 8)]
    state = saved(run)
    assert state["global_step"] == run.summary["steps"] == 7
    assert len(state["optimizer_states"]) == {"dual": 2, "single": 1}[objective]
    for optimizer in state["optimizer_states"]:
        assert {int(entry["step"]) for entry in optimizer["state"].values()} == {7}
    assert [schedule["last_epoch"] for schedule in state["lr_schedulers"]] == [7] * len(
        state["optimizer_states"]
    )
    assert run.summary["tokens_seen"] == 7 * 4 * 16


def test_the_rate_of_each_round_is_warm_up_then_cosine_over_the_whole_run(corpus, tmp_path):
    run = train(
        corpus, tmp_path, "trainer.max_steps=6", "optimizer.lr=0.01", "objective.codebook_lr=0.002"
    )
    cosine = [0.1 + 0.45 * (1 + math.cos(math.pi * done / 4)) for done in range(4)]
    expected = [0.5, 1.0, *cosine]
    assert [float(v) for v in run.column("lr/main")] == pytest.approx([0.01 * f for f in expected])
    assert [float(v) for v in run.column("lr/codes")] == pytest.approx(
        [0.002 * f for f in expected]
    )


@pytest.mark.parametrize(("limit", "rounds"), [(1, 4), (100, 9)])
def test_max_epochs_and_max_steps_end_a_run_whichever_comes_first(corpus, tmp_path, limit, rounds):
    run = train(
        corpus,
        tmp_path,
        "data.batch_size=256",  # four rounds read every window
        f"trainer.max_epochs={limit}",
        "trainer.max_steps=9",
        model="transformer",
    )
    assert run.summary["steps"] == rounds
    # The schedule ends there too, and the last round is validated.
    assert float(run.column("lr/main")[-1]) < 0.6 * float(run.column("lr/main")[1])
    assert run.rows[-1]["val/loss"]


@pytest.mark.parametrize("update", ["gradient", pytest.param("ema", marks=pytest.mark.slow)])
def test_accumulation_changes_memory_not_results(corpus, tmp_path, update):
    runs = [
        train(
            corpus,
            tmp_path / str(count),
            f"objective.accumulate={count}",
            f"model.quantizer.update={update}",
            "optimizer.eps=1e-3",  # Adam would make a large step of a rounding error
        )
        for count in (1, 2, 4)
    ]
    assert len(runs[0].losses()) > 20
    states = [saved(run)["state_dict"] for run in runs]
    for other, state in zip(runs[1:], states[1:], strict=True):
        expected = {k: float(v) for k, v in runs[0].losses().items()}
        assert {k: float(v) for k, v in other.losses().items()} == pytest.approx(
            expected, rel=1e-4, abs=1e-6
        )
        for name, tensor in states[0].items():
            torch.testing.assert_close(state[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_the_total_is_the_prediction_and_the_weighted_rest(corpus, tmp_path):
    run = train(corpus, tmp_path, "model.commitment_cost=0.5", "model.pyramid.weight=0.2")
    for row in run.rows:
        parts = {
            name: float(row[f"loss/{name}"])
            for name in ("prediction", "codebook", "commitment", "pyramid")
        }
        total = (
            parts["prediction"]
            + parts["codebook"]
            + 0.5 * parts["commitment"]
            + 0.2 * parts["pyramid"]
        )
        assert float(row["loss/total"]) == pytest.approx(total, rel=1e-5)


def test_a_tiny_run_learns_its_corpus(corpus, tmp_path):
    run = train(
        corpus,
        tmp_path,
        "trainer.max_steps=60",
        "trainer.log_every_n_steps=20",
        "trainer.val_check_interval=20",
        "data.batch_size=32",
        "optimizer.lr=0.02",
    )
    losses = [float(value) for value in run.column("val/loss")]
    assert losses[-1] < 0.5 * math.log(257)
    assert losses == sorted(losses, reverse=True)


def test_validation_interval_and_logging_interval_are_in_rounds(corpus, tmp_path):
    run = train(
        corpus,
        tmp_path,
        "trainer.max_steps=7",
        "trainer.log_every_n_steps=2",
        "trainer.val_check_interval=3",
    )
    assert [row["step"] for row in run.rows if row["loss/total"]] == ["2", "4", "6"]
    assert [row["step"] for row in run.rows if row["val/loss"]] == ["3", "6", "7"]


def test_bits_per_byte_are_left_out_where_only_a_part_was_scored(corpus, tmp_path):
    some = ("trainer.limit_val_batches=1", "trainer.limit_test_batches=0.5")
    run = train(corpus, tmp_path, *some, "data.eval_batch_size=8")
    assert "val/bpb" not in run.rows[-1]
    assert float(run.column("val/loss")[-1]) > 0
    assert [run.summary[f"{split}/bpb"] for split in ("val", "test", "train")] == [None] * 3
    assert run.summary["test/loss"] > 0


def test_generated_data_has_losses_and_no_bits_per_byte(corpus, tmp_path, capfd):
    run = train(corpus, tmp_path, "model.context_length=127", model="transformer", data="fsm")
    assert run.status == 0, capfd.readouterr().err
    for split in ("val", "test", "train"):
        assert run.summary[f"{split}/bpb"] is None
        assert 1.1748 < run.summary[f"{split}/loss"] < 5
    assert "val/bpb" not in run.rows[-1]
