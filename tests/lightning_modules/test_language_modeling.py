"""Rounds: what they count, what they accumulate, and what they log."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_modules.language_modeling import scored_shares
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


def test_accumulation_changes_nothing_where_few_targets_are_scored(corpus, tmp_path):
    choice = ("data.task=induction", "data.vocab_size=20", "data.gap=4", "data.score=answers")
    runs = [
        train(
            corpus, tmp_path / str(count), *choice,
            f"objective.accumulate={count}", "optimizer.eps=1e-3", "data.seq_len=16",
            "callbacks=default", data="tasks", model="transformer",
        )
        for count in (1, 4)
    ]  # fmt: skip
    assert len(runs[0].losses()) > 10
    one, four = ({k: float(v) for k, v in run.losses().items()} for run in runs)
    assert four == pytest.approx(one, rel=1e-4, abs=1e-6)


def test_shares_make_means_of_parts_the_mean_of_all_scored_targets():
    targets = torch.tensor([[1, 2, -100], [-100, -100, -100], [3, -100, -100], [4, 5, 6]])
    nats = torch.rand(4, 3)
    shares = scored_shares(targets, 4)
    assert shares.mean().item() == pytest.approx(1)
    scored = targets != -100
    means = (nats * scored).sum(1) / scored.sum(1).clamp(min=1)
    assert (means * shares).mean().item() == pytest.approx(nats[scored].mean().item())
    assert scored_shares(targets.abs(), 2).tolist() == [1, 1]
    assert scored_shares(torch.full((2, 3), -100), 2).tolist() == [0, 0]


def shares_of_one_of_two(rank: int, folder: str) -> None:
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    targets = torch.full((4, 3), -100)
    targets[2, 0] = 7  # the second process has the only one
    torch.save(scored_shares(targets.chunk(2)[rank], 2), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_shares_are_those_of_all_processes(tmp_path):
    mp.spawn(shares_of_one_of_two, (str(tmp_path),), nprocs=2)
    assert [torch.load(tmp_path / f"{rank}.pt").tolist() for rank in (0, 1)] == [[0, 0], [4, 0]]


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
