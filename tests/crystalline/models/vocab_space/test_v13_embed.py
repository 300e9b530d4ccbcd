"""What is special about v13, which is v12 after a learned start."""

import pytest
import torch

from crystalline.models.vocab_space.blocks import rms
from crystalline.models.vocab_space.v13_embed import Embed


def build(**options):
    torch.manual_seed(0)
    sizes = {"d_embed": 5, "num_steps": 2, "slice_width": 4, "readout": "state"}
    model = Embed(32, 20, **(sizes | options)).eval()
    with torch.no_grad():
        model.embedding.mul_(1e4)  # so far above the epsilon of `rms` that it can be taken twice
    return model


def test_the_start_of_the_control_is_a_table_of_bigrams_that_the_head_reads():
    model = build()
    tokens = torch.randint(32, (2, 7))
    table = model.embedding @ model.expansion
    torch.testing.assert_close(model.start(tokens), rms(table[tokens]))
    with torch.no_grad():
        for step in model.steps:
            for block in step.blocks:
                block.gain.zero_()
    bigrams = 30 * torch.tanh(rms(table[tokens]) / 30)
    torch.testing.assert_close(model(tokens).logits, bigrams, atol=1e-5, rtol=1e-5)


def trained(model):
    """What the parameters were, and are after a round."""
    before = {name: value.clone() for name, value in model.named_parameters()}
    learned = [each for each in model.train().parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=10.0)
    tokens = torch.randint(32, (3, 12))
    model(tokens[:, :-1]).cross_entropy(tokens[:, 1:]).loss.backward()
    optimizer.step()
    return before, dict(model.named_parameters())


@pytest.mark.parametrize("start", ["learned", "frozen", "skip"])
@pytest.mark.parametrize("num_steps", [2, 0])
def test_the_start_learns_unless_it_is_frozen(start, num_steps):
    before, after = trained(build(start=start, num_steps=num_steps))
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert ({"embedding", "expansion"} & moved == set()) == (start == "frozen")
    assert "head.gamma" in moved
    assert any(name.startswith("steps.") for name in moved) == (num_steps > 0)


def test_frozen_maps_are_drawn_like_the_others_and_saved():
    frozen, learned = build(start="frozen"), build()
    assert all(
        torch.equal(value, learned.state_dict()[name])
        for name, value in frozen.state_dict().items()
    )
    assert {"embedding", "expansion"} <= set(frozen.state_dict())


@pytest.mark.parametrize(("state_dtype", "error"), [("fp32", 1e-4), ("bf16", 0.03)])
def test_with_a_skip_a_state_starts_as_two_equal_parts(state_dtype, error):
    model, tokens = build(start="skip", state_dtype=state_dtype), torch.randint(32, (2, 7))
    start = model.start(tokens)
    assert start.dtype == model.dtype
    own = torch.nn.functional.one_hot(tokens, 32) * 32**0.5
    table = rms((model.embedding @ model.expansion)[tokens])
    torch.testing.assert_close(start, rms(table + own).to(model.dtype), atol=error, rtol=0)
    assert start.argmax(-1).eq(tokens).all()


def test_without_a_step_it_is_a_model_of_bigrams():
    model, tokens = build(num_steps=0), torch.randint(32, (2, 7))
    changed = tokens.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 32
    before, after = model(tokens).logits, model(changed).logits
    assert before.ne(after).any(-1).nonzero()[:, 1].tolist() == [3, 3]
    torch.testing.assert_close(before, 30 * torch.tanh(model.start(tokens) / 30), rtol=1e-3, atol=0)


def test_another_start_is_an_error():
    with pytest.raises(
        ValueError, match=r"model\.start must be learned or frozen or skip, got 'x'"
    ):
        build(start="x")
