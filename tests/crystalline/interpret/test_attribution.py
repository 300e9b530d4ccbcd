"""First-order effects beside those that are measured."""

import pytest
import torch

from crystalline.interpret.attribution import held_effects
from crystalline.interpret.interventions import clamp
from crystalline.interpret.sites import Code, find_sites
from tests.model_zoo import build

NAMES = ("crystalline", "codebook_features", "crystalline_block", "ziggurat_2", "ziggurat_add")


def score(output):
    return output.logits.float().log_softmax(-1)[..., 3].mean()


@pytest.mark.parametrize("name", NAMES)
def test_small_differences_have_their_first_order_effect(name):
    model = build(name).eval()
    with torch.no_grad():  # codes so close that what comes after is straight
        for book in model.codebooks().values():
            mean = book.codes.mean(1, keepdim=True)
            book.codes.copy_(mean + 0.02 * (book.codes - mean))
    tokens = torch.randint(model.vocab_size, (2, model.context_length))
    effects = held_effects(model, tokens, score)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training
    sites = find_sites(model)
    assert set(effects) == set(sites)
    site = list(sites)[-1]  # before others, later choices may stop what a gradient passes
    effect = effects[site]
    with torch.no_grad():
        before = score(model(tokens))
        for place in effect.abs().flatten().topk(3).indices.tolist():
            level, code = divmod(place, effect.shape[1])
            after = score(model(tokens, edits=clamp(sites, [Code(site, level, code)])))
            assert float(after - before) == pytest.approx(float(effect[level, code]), rel=0.15)


@pytest.mark.parametrize("name", ["crystalline_block", "crystalline_input_ste"])
def test_estimators_that_pass_gradients_do_so_in_evaluation(name):
    model = build(name)
    effects = held_effects(model, torch.randint(model.vocab_size, (2, 8)), score)
    assert all(effect.any() for effect in effects.values())


def test_sites_that_no_gradient_reaches_have_no_effect():
    model = build("ziggurat_2").eval()
    tokens = torch.randint(model.vocab_size, (1, model.context_length))
    effects = held_effects(model, tokens, lambda _: torch.ones((), requires_grad=True) * 2)
    assert effects.keys() == model.codebooks().keys()
    assert all((effect == 0).all() for effect in effects.values())


def test_a_model_without_codebooks_has_no_effects():
    model = build("crystal")
    assert held_effects(model, torch.randint(model.vocab_size, (1, 8)), score) == {}
