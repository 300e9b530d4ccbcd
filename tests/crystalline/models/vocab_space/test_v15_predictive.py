"""What is special about v15: its write gate, its few words, its many predictions."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from crystalline.models.vocab_space.slices import Slice, SliceBlock, SliceMLP
from crystalline.models.vocab_space.v15_predictive import GatedStep, Predictive, relative_entropy


def small(**options):
    torch.manual_seed(0)
    return Predictive(32, 20, num_steps=3, slice_width=12, top_states=10, **options)


def test_relative_entropy():
    scores = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [50.0, 50.0, 0.0, 0.0], [90.0, 0.0, 0.0, 0.0]]])
    torch.testing.assert_close(relative_entropy(scores), torch.tensor([[1.0, 0.5, 0.0]]))


def test_as_published_nothing_is_ever_written():
    torch.manual_seed(0)
    model = Predictive(1024, 20, mode="faithful")
    tokens = torch.randint(1024, (2, 9))
    start = model.start(tokens)
    assert relative_entropy(start).max() < 1e-9
    output = model.train()(tokens)
    lost = cross_entropy(output.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    # Nine times the same, the main loss and eight weighted ones.
    inner = output.losses["inner"] * model.loss_weights(0.0)["inner"]
    torch.testing.assert_close(lost + inner, 1.5695 * lost, rtol=1e-4, atol=0)
    assert math.isclose(lost.item(), 30 * math.tanh(32 / 30), rel_tol=1e-3)


def test_repaired_the_gate_starts_open():
    model = small().eval()
    tokens = torch.randint(32, (2, 9))
    start = model.start(tokens)
    factor = relative_entropy(model.gate_scores(start, start))
    torch.testing.assert_close(factor, torch.ones(2, 9))
    output = model(tokens)
    assert output.logits.abs().max() > 0.1
    assert output.losses == {}  # validation sees the main loss alone


def test_the_floor_holds_where_there_is_no_doubt():
    model = small()
    step = model.steps[0]
    x = model.start(torch.randint(32, (1, 6)))
    sure = torch.zeros_like(x)
    sure[..., 0] = 100
    full = step(x, None, torch.zeros_like(x)) - x
    least = step(x, None, sure) - x
    # Ten words are kept, the present one and nine: the same ones, as all are scaled alike.
    torch.testing.assert_close(least, 0.1 * full, atol=1e-5, rtol=1e-3)


def thin(by="magnitude", first_states=None, through=False):
    """A step that writes nothing and keeps two words of five."""
    torch.manual_seed(0)
    block = SliceBlock(
        Slice(torch.tensor([0, 1])), Slice(torch.tensor([2, 3])), SliceMLP(2, 2, "gelu"), "none"
    )
    with torch.no_grad():
        block.gain.zero_()
    return GatedStep(block, 2, 0.1, by, first_states, through)


@pytest.mark.parametrize("through", [False, True])
def test_the_largest_words_are_kept_and_the_switch_decides_about_the_others_gradient(through):
    x = torch.tensor([[[0.5, -3.0, 1.0, 0.1, 2.0]]], requires_grad=True)
    kept = thin(through=through)(x, None, x)
    torch.testing.assert_close(kept, torch.tensor([[[0.0, -3.0, 0.0, 0.0, 2.0]]]))
    kept.sum().backward()
    expected = torch.ones(5) if through else torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(x.grad, expected[None, None])


def test_states_thin_out_in_the_first_half_of_training():
    x = torch.tensor([[[0.5, -3.0, 1.0, 0.1, 2.0]]])
    step = thin(by="score", first_states=5)
    kept = {}
    for progress in (0.0, 0.25, 0.5, 1.0):
        step.begin_round(progress)
        kept[progress] = step(x, None, x).count_nonzero().item()
    assert kept == {0.0: 5, 0.25: 3, 0.5: 2, 1.0: 2}
    torch.testing.assert_close(step(x, None, x)[0, 0], torch.tensor([0.0, 0.0, 1.0, 0.0, 2.0]))
    assert step.state_dict()["limit"] == 2


def test_inner_losses_are_those_of_every_state():
    model = small(auxiliary_decay=0.5).train()
    tokens = torch.randint(32, (2, 9))
    found = model(tokens).losses["inner"]
    x = start = model.start(tokens)
    expected = torch.zeros(())
    for weight, step in zip((0.25, 0.5, 1.0), model.steps, strict=True):
        x = step(x, None, model.gate_scores(x, start))
        logits = model.head(x - start)[:, :-1]
        expected = expected + weight * cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(found, expected)
    assert model.loss_weights(0.3) == {"inner": 0.1}


def test_more_words_kept_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"model\.top_states must lie in \[1, 32\], got 33"):
        Predictive(32, 20, slice_width=12, top_states=33)
