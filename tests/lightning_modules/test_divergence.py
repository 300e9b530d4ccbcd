"""Losses that stop being numbers."""

import pytest
import torch
from torch import nn

from crystalline import checkpoint
from lightning_modules.divergence import Divergence, first_non_finite
from tests.running import resume, train

NAN = float("nan")


def test_the_first_bad_round_is_remembered_and_all_later_ones_are_skipped():
    divergence = Divergence()
    good, bad = [torch.tensor(1.0), torch.tensor(2.0)], [torch.tensor(1.0), torch.tensor(NAN)]
    assert not divergence.watch(4, good)
    assert divergence.read() is None
    assert divergence.watch(5, bad)
    assert divergence.watch(6, good)
    assert divergence.watch(7, [torch.tensor(float("inf"))])
    assert divergence.read() == 5


def test_the_first_module_whose_output_is_not_finite_is_named():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    x = torch.ones(1, 2)
    assert first_non_finite(model, x) is None
    with torch.no_grad():
        model[1].bias[0] = NAN
    assert first_non_finite(model, x) == "1"
    assert not model[1]._forward_hooks


@pytest.mark.parametrize("fused", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_a_nan_ends_the_run_with_one_line_and_the_last_good_checkpoint(
    corpus, tmp_path, capfd, fused
):
    poison = "+callbacks.poison={_target_: tests.running.Poison, step: 6}"
    run = train(
        corpus,
        tmp_path,
        poison,
        "trainer.max_steps=30",
        "trainer.val_check_interval=30",
        "callbacks.checkpoint.every_n_steps=5",
        f"optimizer.fused={fused}",
    )
    said = capfd.readouterr().err.splitlines()
    assert run.status == 1
    line = said[-1]
    assert line.startswith("crystalline.run: the loss stopped being finite in round 6, first in ")
    assert "stages.0.blocks.0.mlp" in line
    assert not (tmp_path / "summary.json").exists()
    state = checkpoint.read(run.last)
    assert state["global_step"] == 5
    assert all(t.isfinite().all() for t in state["state_dict"].values())
    # Rounds 6 to 9 changed nothing before the flag was read.
    from tests.running import Poison

    assert len(Poison.seen) == 2
    before, after = Poison.seen
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name].nan_to_num(7)), name
    # Without the poison, the same run goes on from the checkpoint that is left.
    assert resume(run.last, "trainer.max_steps=6").status == 0
