"""Codes that nothing chooses move to where they are needed."""

import lightning
import pytest
import torch

from tests.running import experiment, train

RESET = "callbacks.dead_codes={every_n_steps: 3, idle_positions: 60, max_fraction: 0.5, until: 1.0}"


class FarCode(lightning.Callback):
    """Puts a code where no input is; notes codes and momentum after every round."""

    def __init__(self) -> None:
        self.codes: list[torch.Tensor] = []
        self.momentum: list[torch.Tensor] = []

    def on_train_start(self, trainer, pl_module):
        book = next(iter(pl_module.model.codebooks().values()))
        book.codes.data[1, 5] = 1000.0

    def on_train_batch_end(self, trainer, pl_module, *_):
        book = next(iter(pl_module.model.codebooks().values()))
        self.codes.append(book.codes.detach().clone())
        state = trainer.optimizers[1].state[book.codes]
        self.momentum.append(state["exp_avg"].clone())


@pytest.fixture
def watched(corpus, tmp_path):
    run = experiment(corpus, tmp_path, RESET, "trainer.max_steps=4")
    watcher = FarCode()
    run.callbacks.append(watcher)
    run.run()
    return watcher


def test_a_code_out_of_reach_is_moved_to_the_inputs_and_its_momentum_forgotten(watched):
    assert watched.codes[1][1, 5].abs().min() > 900  # before the reset
    assert watched.codes[2][1, 5].abs().max() < 10
    assert not watched.momentum[2][1, 5].any()
    assert watched.momentum[2].flatten(0, 1).any(-1).sum() > 4  # those that stayed keep theirs
    assert watched.codes[3][1, 5].abs().max() < 10


def test_nothing_moves_after_its_share_of_training_or_before_a_code_is_idle(corpus, tmp_path):
    late = train(corpus, tmp_path / "a", RESET, "callbacks.dead_codes.until=0.5")
    assert "codebook/revived" not in late.rows[0]
    patient = train(corpus, tmp_path / "b", RESET, "callbacks.dead_codes.idle_positions=100000")
    assert set(patient.column("codebook/revived")) == {"0"}


def test_living_codes_move_with_a_margin_and_a_wrong_one_is_named(corpus, tmp_path, capfd):
    patient = ("callbacks.dead_codes.idle_positions=100000", "callbacks.dead_codes.margin=1.0")
    run = train(corpus, tmp_path / "a", RESET, *patient)
    assert int(run.column("codebook/revived")[0]) > 0
    assert train(corpus, tmp_path / "b", "callbacks.dead_codes.margin=0").status == 1
    assert "callbacks.dead_codes.margin=0: give more than 0, or null" in capfd.readouterr().err


def test_a_power_below_0_is_named(corpus, tmp_path, capfd):
    assert train(corpus, tmp_path, "callbacks.dead_codes.error_power=-1").status == 1
    assert "callbacks.dead_codes.error_power=-1: give 0 or more" in capfd.readouterr().err


def test_at_most_a_share_of_each_book_moves_at_once(corpus, tmp_path):
    run = train(
        corpus,
        tmp_path,
        RESET,
        "~callbacks.codebook_init",  # codes far from the inputs
        "callbacks.dead_codes.max_fraction=0.125",
    )
    moved = int(run.column("codebook/revived")[0])
    assert 1 <= moved <= 4  # one of eight, in two books at two sites


def test_published_codebooks_are_left_alone(corpus, tmp_path):
    run = train(corpus, tmp_path, RESET, "model.mode=source")
    assert run.status == 0
    assert "codebook/revived" not in run.rows[0]
