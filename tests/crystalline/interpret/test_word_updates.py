import pytest
import torch

from crystalline.interpret.word_trace import trace
from crystalline.interpret.word_updates import REMAINDER, START, part_rows, parts_of, pushes
from crystalline.models.vocab_space.model import VocabSpace
from tests.crystalline.interpret.word_models import VOCAB, meta, text
from tests.crystalline.models.vocab_space.test_variants import EACH, MODES, make, shaken

ROUNDED = {  # as published, the vote adds in bf16: beside sqrt(V), small updates are rounded away
    ("v16_columnar", "faithful"): 0.1,
}


def left_over(model) -> float:
    """|remainder| / |x_N - x_0|, of all positions together."""
    tokens = torch.randint(32, (2, 12), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)  # of the noise that some draw in evaluation, as published
    found = trace(model.eval(), tokens)
    moved = (found.last - found.carried).norm()
    return float(parts_of(found, model.head)[REMAINDER].norm() / moved)


@EACH
@MODES
@pytest.mark.usefixtures("unchecked")
def test_updates_by_their_weights_are_all_there_is(variant, mode):
    model = shaken(make(variant, mode=mode, num_steps=2), 0.3)
    assert left_over(model) < ROUNDED.get((variant, mode), 1e-5)


@pytest.mark.parametrize("variant", ["v11_tpg", "v16_columnar"])
@pytest.mark.usefixtures("unchecked")
def test_without_weights_much_is_left_over(variant, monkeypatch):
    model = shaken(make(variant, readout="forgotten"), 0.3)
    assert left_over(model) < 1e-5
    monkeypatch.setattr(type(model), "pass_weights", VocabSpace.pass_weights)
    assert left_over(model) > 0.1


def test_what_a_halted_position_would_be_given_does_not_count():
    model = shaken(make("v11_tpg", mode="faithful", state_dtype="fp32"), 0.3)
    with torch.no_grad():
        model.halting.map.bias.zero_()
    found = trace(model.eval(), torch.arange(24).reshape(2, 12))
    assert 0 < float(found.weights.mean()) < 1
    assert (found.weights[0] == 1).all()
    assert left_over(model) < 1e-5


@pytest.mark.parametrize("readout", ["state", "delta", "learned_beta"])
@torch.no_grad()
def test_what_is_read_is_the_sum_of_the_parts(readout):
    model, (tokens, targets) = meta(readout=readout), text()
    traced = trace(model, tokens)
    read = model.head.read(traced.last, traced.start)
    torch.testing.assert_close(sum(parts_of(traced, model.head).values()), read)
    found = pushes(traced, model.head, targets)
    total = sum(push.share for push in found.values())
    torch.testing.assert_close(total, torch.ones(3, 8), atol=1e-5, rtol=0)
    # Before the cap, the scores of the output are 30 artanh(logits / 30).
    z = 30 * torch.atanh(traced.logits.double() / 30)
    z = z - z.mean(-1, keepdim=True)
    of_next = sum(push.next_push for push in found.values())[:, :-1].double()
    expected = z[:, :-1].gather(-1, targets[:, :-1, None])[..., 0]
    torch.testing.assert_close(of_next, expected, atol=1e-4, rtol=1e-4)
    own = sum(push.own_push for push in found.values()).double()
    torch.testing.assert_close(own, z.gather(-1, tokens[..., None])[..., 0], atol=1e-4, rtol=1e-4)


def test_sizes_breadths_and_words_by_hand():
    model, (tokens, targets) = meta(), text()
    traced = trace(model, tokens)
    found = pushes(traced, model.head, targets, top=2)
    u = traced.updates["steps.1.parts.1"][1, 4].double()
    push = found["steps.1.parts.1"]
    assert push.size[1, 4] == pytest.approx(float((u**2).mean().sqrt()), rel=1e-5)
    breadth = float((u**2).sum() ** 2 / (u**4).sum())
    assert push.breadth[1, 4] == pytest.approx(breadth, rel=1e-5)
    assert push.up[1, 4].tolist() == u.argsort(descending=True)[:2].tolist()
    assert push.down[1, 4].tolist() == u.argsort()[:2].tolist()


def test_rows_are_means_over_scored_positions_with_the_commonest_words():
    model, (tokens, targets) = meta(readout="state"), text()
    traced, scored = trace(model, tokens), targets >= 0
    found = pushes(traced, model.head, targets, top=3)
    rows = part_rows([found], [scored], {"steps.0.parts.1": "Bottleneck"}, VOCAB)
    # What is left over is rounding here, of the steps and of the model.
    parts = [f"steps.{i}.parts.{j}" for i in (0, 1) for j in (0, 1)]
    assert [row["part"] for row in rows] == [START, *parts]
    row = rows[2]
    assert row["kind"] == "Bottleneck"
    assert row["share"] == pytest.approx(float(found[row["part"]].share[scored].mean()), rel=1e-5)
    counts = found[row["part"]].up[scored].flatten().bincount(minlength=VOCAB)
    assert counts[row["up"][0]] == counts.max()
    assert len(row["down"]) == 3
    assert REMAINDER in found
