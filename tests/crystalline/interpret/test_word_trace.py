import pytest
import torch

from crystalline.interpret.word_trace import changed_state, trace
from tests.crystalline.interpret.word_models import meta, routed, text
from tests.crystalline.models.vocab_space.test_variants import make


@pytest.mark.parametrize("readout", ["state", "delta", "learned_beta"])
@torch.no_grad()
def test_states_and_updates_are_those_of_the_steps(readout):
    model, (tokens, _) = meta(readout=readout), text()
    found = trace(model, tokens)
    x = model.start(tokens)
    torch.testing.assert_close(found.start, x)
    for index, step in enumerate(model.steps):
        for number, part in enumerate(step.parts):
            update = part.update(x)
            torch.testing.assert_close(found.updates[f"steps.{index}.parts.{number}"], update)
            x = x + update
        torch.testing.assert_close(found.states[index], x)
        torch.testing.assert_close(
            found.updates[f"steps.{index}.rest"], torch.zeros_like(x), atol=1e-5, rtol=0
        )
    torch.testing.assert_close(found.last, x)
    torch.testing.assert_close(found.logits, model(tokens).logits)
    assert list(found.updates)[:3] == ["steps.0.parts.0", "steps.0.parts.1", "steps.0.rest"]


@torch.no_grad()
def test_ways_are_listed_where_parts_choose():
    model, (tokens, _) = routed(), text()
    found = trace(model, tokens)
    x = model.start(tokens)
    shares = model.steps[0].parts[0].block.shares(x / x.square().mean(-1, keepdim=True).sqrt())
    torch.testing.assert_close(found.mixtures["steps.0.parts.0.block.timescale"].shares, shares)
    p = model.halting(found.states[0]).sigmoid()
    torch.testing.assert_close(found.mixtures["halting.halt"].shares[..., 1:], p)
    assert found.mixtures["halting.halt"].names == ("go on", "halt")
    assert [name for name in found.mixtures if "halting" in name] == ["halting.halt"]  # asked once


def test_calls_of_a_shared_step_are_numbered():
    model = make("v4_golf")
    found = trace(model, text()[0])
    parts = ("memory", "op", "rest")  # the rest is what a call keeps of the state
    assert list(found.updates) == [
        *(f"steps.0.{part}" for part in ("memory", "op")), "steps.0.rest",
        *(f"steps.0.{part}@2" for part in ("memory", "op")), "steps.0@2.rest",
        *(f"steps.1.{part}" for part in parts),
    ]  # fmt: skip
    assert list(found.passes.values()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_the_model_is_as_it_was():
    model, (tokens, _) = meta().train(), text()
    trace(model, tokens)
    assert model.training
    assert not any(part._forward_hooks for part in model.modules())


@torch.no_grad()
def test_a_state_is_changed_for_what_comes_after_it_alone():
    model, (tokens, _) = meta(), text()

    def add(read):
        return torch.cat([read[:, :4], read[:, 4:] + 3 * torch.eye(12)[5]], 1)

    with changed_state(model, 0, add) as edits:
        found = model(tokens, edits=edits).logits
    x = model.steps[0](model.start(tokens))
    x = model.steps[1](torch.cat([x[:, :4], x[:, 4:] + 3 * torch.eye(12)[5]], 1))
    expected = model.head(model.head.read(x, model.start(tokens)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(model(tokens).logits[:, :4], found[:, :4])
