"""What a run says of how discrete its model is, and when it says it."""

import pytest
import torch

from callbacks.assignment_entropy import AssignmentEntropy
from callbacks.hardening import Hardening
from callbacks.validation_part import validation_part
from crystalline.errors import UserError
from tests.running import experiment, train

MODEL = (
    "model=crystalline",
    "model.num_layers=2",
    "model.codebook_size=16",
    "model.num_codes_k=2",
    "callbacks.assignment_entropy.positions=100",
    "callbacks.hardening={positions: 200, seeds: 2}",
)


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crystalline")
    return train(corpus, folder, *MODEL, "trainer.val_check_interval=2", model="transformer")


def starting(names, *starts):
    return {name for name in names if name.startswith(starts)}


def test_entropy_and_floor_of_every_site_are_logged_at_validations_and_in_the_summary(finished):
    sites = [f"layers.{i}.{p}" for i in (0, 1) for p in ("attn_pre.group.0", "attn_pre.group.1",
                                                         "mlp.group.0")]  # fmt: skip
    kinds = ("assignment/entropy", "assignment/noise_floor")
    expected = {name for kind in kinds for name in (kind, *(f"{kind}/{site}" for site in sites))}
    assert starting(finished.summary, "assignment/") == expected
    for name in expected:
        assert len(finished.column(name)) == len(finished.column("val/loss")) == 2
    assert finished.summary["best_step"] == 4  # so what was tested was validated last
    entropy = float(finished.column("assignment/entropy")[-1])
    assert finished.summary["assignment/entropy"] == pytest.approx(entropy)


def test_hardening_of_every_layer_and_of_all_is_in_the_summary_alone(finished):
    expected = {"hardening/layer_0", "hardening/layer_1", "hardening/all"}
    assert starting(finished.summary, "hardening/") == expected
    assert not starting(finished.rows[0], "hardening/")
    assert any(finished.summary[name] != 0 for name in expected)


@pytest.mark.parametrize("model", ["transformer", "ziggurat"])
def test_models_without_soft_choices_have_neither(corpus, tmp_path, model):
    run = train(corpus, tmp_path, model=model)
    assert starting(run.summary, "assignment/", "hardening/") == set()
    assert any("code_bits" in name for name in run.summary) == (model == "ziggurat")
    assert starting(run.rows[0], "assignment/", "hardening/") == set()


def test_measuring_changes_neither_the_run_nor_its_random_numbers(corpus, tmp_path, finished):
    off = ("~callbacks.assignment_entropy", "~callbacks.hardening", "~callbacks.code_bits")
    kept = [option for option in MODEL if not option.startswith("callbacks")]
    plain = train(
        corpus, tmp_path, *kept, "trainer.val_check_interval=2", *off, model="transformer"
    )
    assert plain.losses() == finished.losses()


def test_the_part_that_is_read_is_spread_over_the_split_and_holds_a_window_at_least(
    corpus, tmp_path
):
    parts = experiment(corpus, tmp_path, model="transformer")
    trainer, module, data = parts.trainer, parts.module, parts.data
    trainer.datamodule = data
    total = data.num_eval_windows("val")
    seq_len = data.eval_windows("val", torch.zeros(1).long().numpy()).tokens.shape[1]
    (batch,) = validation_part(trainer, module, 3 * seq_len + 1)
    wanted = data.eval_windows("val", torch.tensor([0, total // 3, 2 * total // 3]).numpy())
    assert torch.equal(batch.tokens, wanted.tokens)
    assert sum(len(b.tokens) for b in validation_part(trainer, module, 1)) == 1
    assert sum(len(b.tokens) for b in validation_part(trainer, module, 10**9)) == total


def test_a_number_below_one_is_named():
    with pytest.raises(UserError, match=r"callbacks\.assignment_entropy\.positions=0: give 1"):
        AssignmentEntropy(0)
    with pytest.raises(UserError, match=r"callbacks\.hardening\.seeds=0: give 1 or more"):
        Hardening(1, 0)
