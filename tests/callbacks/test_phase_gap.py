"""A model that sees its token and its place alone learns the text by its place: it is found out."""

import pytest

from crystalline.result_moments import TRAINING, moments
from tests.running import train

BLIND = (
    *("model=crystal/blind", "model.mode=faithful", "callbacks=phase"),
    *("~callbacks.code_bits", "~callbacks.assignment_entropy"),
    *("model.capacity=16", "model.founders=8", "objective=single", "optimizer.lr=1e-2"),
    *("data.stride=8", "callbacks.phase_gap.shifts=[4]", "callbacks.phase_gap.windows=100"),
    *("trainer.max_steps=160", "trainer.val_check_interval=80", "data.batch_size=32"),
    *("model.d_mlp=512", "trainer.log_every_n_steps=20"),
    *("tokenizer@data.tokenizer=bpe", "data.tokenizer.vocab_size=330"),
)


@pytest.fixture(scope="module")
def aligned(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("aligned")
    return train(corpus, folder, *BLIND, "data.windows=overlap", model="transformer")


@pytest.mark.slow
def test_fixed_starts_teach_the_place(aligned):
    gap = float(aligned.column("phase_gap")[-1])
    assert gap > 0.08
    assert aligned.summary["phase_gap"] == pytest.approx(gap, abs=1e-6)


@pytest.mark.slow
def test_a_random_phase_does_not(corpus, tmp_path):
    moving = train(corpus, tmp_path, *BLIND, "data.windows=shuffle", model="transformer")
    assert abs(float(moving.column("phase_gap")[-1])) < 0.03


@pytest.mark.slow
def test_the_summary_says_what_each_part_is_worth(aligned):
    summary = aligned.summary
    assert summary["ablation/mlp"] > 0.1
    assert abs(summary["ablation/memory"]) < 0.1  # the published field is next to silent
    assert "ablation/attention" not in summary  # there is none


@pytest.mark.slow
def test_chosen_rounds_become_lines_of_a_page(aligned):
    first, last = moments(aligned.folder, aligned.summary, [80, 160])
    losses = [float(row["loss/prediction"]) for row in aligned.rows if int(row["step"]) <= 80]
    assert first[TRAINING] == pytest.approx(sum(losses) / len(losses))
    assert last["val/loss"] == float(aligned.column("val/loss")[-1])
    assert last["study/field/neurons"] == float(aligned.column("field/neurons")[-1])
    with pytest.raises(Exception, match="validated after"):
        moments(aligned.folder, aligned.summary, [81])
