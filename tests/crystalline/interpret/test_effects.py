"""Divergences, specificity and composability, where their values are known."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from crystalline.contract import Choice, Codes, LanguageModel, ModelOutput
from crystalline.interpret.effects import composability, fires, jsd, kl, specificity
from crystalline.interpret.interventions import activate
from crystalline.interpret.sites import Code, find_sites


class Planted(LanguageModel):
    """Site "word" chooses a code for each token, its own number; logits are a table of the codes.

    Codes 0 to 4 of level 0 are the tokens; level 1 is always 0 and adds its own row of a table.
    """

    def __init__(self) -> None:
        super().__init__(5, 8)
        random = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(2, 6, 5, generator=random))

    def forward(self, tokens, *, codes=False, edits=None, cache=None) -> ModelOutput:
        scores = F.one_hot(torch.stack([tokens, torch.zeros_like(tokens)], -1), 6).float()
        scores[..., 5] += 0.5  # the next best

        def without(banned):
            return scores.masked_fill(banned, -torch.inf).argmax(-1)

        indices = scores.argmax(-1)
        if edits and "word" in edits:
            indices = edits["word"](Choice(indices, torch.arange(tokens.shape[1]), without))
        logits = self.table[0][indices[..., 0]] + self.table[1][indices[..., 1]]
        return ModelOutput(logits, codes={"word": Codes(indices, 6)} if codes else {})

    def init_cache(self, batch_size: int) -> None:
        return None


logits = partial(st.lists, st.floats(-50, 50, width=32), min_size=7, max_size=7)


@settings(max_examples=20, deadline=None)
@given(logits(), logits())
def test_jsd_is_symmetric_between_zero_and_ln_2_and_zero_for_equals(p, q):
    p, q = torch.tensor(p), torch.tensor(q)
    found = jsd(p, q)
    assert 0 <= found <= math.log(2)
    assert found == jsd(q, p)
    assert jsd(p, p) == 0
    assert jsd(p, p + 1) < 1e-6  # a constant is no difference
    x, y = p.double().softmax(-1), q.double().softmax(-1)
    m = (x + y) / 2
    wanted = (torch.special.xlogy(x, x / m) + torch.special.xlogy(y, y / m)).sum() / 2
    assert float(found) == pytest.approx(float(wanted), abs=2e-6)


def test_kl_and_jsd_by_hand():
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert float(kl(p, q)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    far = torch.tensor([[0.0, -1e4], [-1e4, 0.0]])
    assert float(jsd(far[0], far[1])) == pytest.approx(math.log(2))
    assert jsd(p.bfloat16(), q.bfloat16()).dtype == torch.float32


def test_deactivation_is_specific_where_a_code_acts_at_its_own_position_alone():
    model = Planted()
    tokens = torch.tensor([[1, 3, 1, 2], [3, 3, 0, 1]])
    targets = torch.tensor([[3, 1, -100, 4], [3, 0, 1, 2]])
    code = Code("word", 0, 1)
    found = specificity(model, [(tokens, targets)], find_sites(model)["word"], code)
    assert (found.fired, found.rest) == (2, 5)
    table = model.table.detach()
    clean, ablated = table[0, 1] + table[1, 0], table[0, 5] + table[1, 0]
    assert found.kl_fired == pytest.approx(float(kl(clean, ablated)), rel=1e-5)
    risen = clean.log_softmax(-1) - ablated.log_softmax(-1)
    assert found.loss_fired == pytest.approx(float(risen[[3, 2]].mean()), rel=1e-5)
    assert (found.kl_rest, found.loss_rest) == (0, 0)
    assert found.kl_ratio == math.inf
    never = specificity(model, [(tokens, targets)], find_sites(model)["word"], Code("word", 0, 5))
    assert never.fired == 0
    assert math.isnan(never.kl_fired)


def test_a_code_fires_at_the_last_token_of_its_positions():
    indices = torch.tensor([[[0, 2], [1, 0], [2, 2]]])
    pairs = Codes(indices, 3, span=2)
    assert fires(pairs, Code("a", 1, 2), 6).tolist() == [[False, True, False, False, False, True]]
    one_book = Codes(indices, 3, shared=True, mask=torch.tensor([[True, True, False]]))
    assert fires(one_book, Code("a", 0, 2), 3).tolist() == [[True, False, False]]
    assert fires(one_book, Code("a", 0, 0), 3).tolist() == [[True, True, False]]


def test_effects_that_add_up_in_logits_compose_exactly_and_those_of_one_place_do_not():
    model = Planted()
    site = find_sites(model)["word"]
    tokens, at = torch.tensor([[1, 2, 3]]), torch.tensor([0, 2])
    edits = [{"word": activate(site, 4, (0,))}, {"word": activate(site, 2, (1,))}]
    found = composability(model, tokens, edits, at)
    assert found.cosine == pytest.approx(1)
    assert found.relative_error == pytest.approx(0, abs=1e-5)
    assert found.jsd == pytest.approx(0, abs=1e-6)
    assert found.joint_jsd > 0.01
    same = composability(model, tokens, [edits[0], {"word": activate(site, 0, (0,))}], at)
    assert same.relative_error > 0.1
