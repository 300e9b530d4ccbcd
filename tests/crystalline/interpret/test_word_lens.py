import math

import pytest
import torch

from crystalline.interpret.word_lens import depth_rows, lens, views
from crystalline.interpret.word_trace import trace
from tests.crystalline.interpret.word_models import VOCAB, meta, text


@pytest.fixture(scope="module")
def read():
    model, (tokens, targets) = meta(), text()
    traced = trace(model, tokens)
    return model, traced, targets, lens(traced, model.head, targets)


def test_figures_are_those_of_each_state_by_hand(read):
    model, traced, targets, found = read
    states = [traced.start, *traced.states]
    for depth, row, at in [(1, 0, 3), (2, 2, 6), (1, 1, 0)]:
        with torch.no_grad():
            logits = model.head(states[depth] - traced.start)[row, at].double()
        added = (states[depth] - traced.start)[row, at].float()
        p = logits.softmax(0)
        q = traced.logits[row, at].double().softmax(0)
        here = (depth, row, at)
        assert found.size[here] == pytest.approx(added.norm().item() / VOCAB**0.5, rel=1e-5)
        assert found.entropy[here] == pytest.approx(float(-(p * p.log()).sum()), rel=1e-4)
        assert found.kl[here] == pytest.approx(float((p * (p / q).log()).sum()), abs=1e-5)
        order = logits.argsort(descending=True).tolist()
        assert found.next_rank[here] == order.index(int(targets[row, at])) + 1
        assert found.copy_rank[here] == order.index(int(traced.tokens[row, at])) + 1
        assert found.next_logit[here] == pytest.approx(float(logits[targets[row, at]]), rel=1e-5)
        assert found.top[here] == order[0]


def test_the_start_less_itself_prefers_no_word(read):
    _, _, _, found = read
    assert (found.top[0] == -1).all()
    assert (found.next_rank[0] == (VOCAB + 1) / 2).all()
    torch.testing.assert_close(found.entropy[0], torch.full((3, 8), math.log(VOCAB)))


def test_the_last_state_is_the_output(read):
    _, traced, _, found = read
    assert float(found.kl[-1].max()) < 1e-6
    assert torch.equal(found.top[-1], traced.logits.argmax(-1))


def test_a_word_has_settled_when_it_changes_no_more(read):
    _, _, _, found = read
    for row in range(3):
        for at in range(8):
            tops = found.top[:, row, at].tolist()
            expected = next(d for d in range(3) if len(set(tops[d:])) == 1)
            assert found.settled[row, at] == expected


def test_rows_are_medians_and_means_over_scored_positions(read):
    _, _, targets, found = read
    scored = targets >= 0
    rows = depth_rows([found, found], [scored, scored])
    assert [row["depth"] for row in rows] == [0, 1, 2]
    assert rows[1]["kl"] == pytest.approx(float(found.kl[1][scored].mean()))
    assert rows[1]["next_rank"] == float(found.next_rank[1][scored].median())
    assert rows[1]["settled"] == pytest.approx(float((found.settled[scored] <= 1).float().mean()))
    assert rows[2]["settled"] == 1


def test_the_state_itself_repeats_the_word(read):
    model, traced, targets, _ = read
    found = lens(traced, model.head, targets, views(model.head)["state"])
    assert (found.copy_rank[0] == 1).all()
    assert set(views(model.head)) == {"state", "delta"}


def test_of_states_that_have_forgotten_the_first_it_is_not_taken_again():
    model, (tokens, targets) = meta(readout="forgotten"), text()
    traced, of = trace(model, tokens), views(model.head)
    state, delta = (lens(traced, model.head, targets, of[name]) for name in ("state", "delta"))
    assert torch.equal(state.kl[1:], delta.kl[1:])
    assert float(delta.kl[-1].max()) < 1e-6


def test_a_head_that_learns_what_to_leave_out_has_a_view_of_its_own():
    assert set(views(meta(readout="learned_beta").head)) == {"state", "delta", "learned_beta"}
