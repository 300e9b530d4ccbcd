"""The field computes what it says, births change nothing, held neurons stay where they are."""

import math

import pytest
import torch

from crystalline.contract import Choice
from crystalline.models.crystal.field import NeuronField
from crystalline.models.crystal.growth import give_birth


def field(**options) -> NeuronField:
    torch.manual_seed(0)
    found = NeuronField(16, 20, 12, **options)
    found.values.data.normal_()
    return found


def inputs(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 16, generator=torch.Generator().manual_seed(1))


def published(own: NeuronField, x: torch.Tensor) -> torch.Tensor:
    """As the scripts write it, in fp64."""
    p, v = own.positions[own.alive].double(), own.values[own.alive].double()
    tau = (own.width[own.alive].double().abs() + 0.1) * own.scale[own.alive].double()
    weights = torch.exp(-(x.double()[..., None, :] - p).norm(dim=-1) / tau)
    return weights @ v / (weights.sum(-1, keepdim=True) + 1e-8)


def test_it_is_the_published_formula():
    own = field(width="abs", null_slot=True, learned_mass=False)
    for size in (0.3, 1.0):  # the guard counts at the larger one
        x = size * inputs(3, 5)
        torch.testing.assert_close(own(x)[0].double(), published(own, x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 0.05, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("null_slot", [True, False])
def test_no_scale_gives_nan_and_without_the_guard_none_is_silent(scale, null_slot):
    own = field(null_slot=null_slot)
    own.scale.fill_(scale)
    x = inputs(4, 6).requires_grad_()
    y, _ = own(x)
    (y * inputs(4, 6)).sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(own.positions.grad).all()
    if not null_slot:
        assert y.norm(dim=-1).min() > 0.1
        if scale >= 0.3:  # below, the nearest neuron has it all: a gradient of its value is left
            assert own.positions.grad.abs().sum() > 0
    elif scale <= 0.05:
        assert y.abs().max() < 1e-6


def test_at_a_neuron_itself_the_gradient_is_finite():
    own = field()
    x = own.positions[:1].detach().clone().view(1, 1, 16).requires_grad_()
    own(x)[0].sum().backward()
    assert torch.isfinite(x.grad).all()


def test_dead_rows_neither_speak_nor_learn():
    own = field()
    x = inputs(2, 4)
    before = own(x)[0]
    before.square().sum().backward()
    for parameter in own.row_parameters():
        assert not parameter.grad[12:].any()
        assert parameter.grad[:12].abs().sum() > 0
    with torch.no_grad():
        own.positions[12:], own.values[12:] = 0.0, 100.0
    torch.testing.assert_close(own(x)[0], before)


def test_an_exact_birth_changes_next_to_nothing_and_the_published_one_much():
    x = inputs(64, 4)
    changed = {}
    for split in ("exact", "published"):
        own = field(learned_mass=split == "exact")
        with torch.no_grad():
            before = own(x)[0]
            rows = give_birth(own, torch.arange(6), 7, split, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
            changed[split] = float((own(x)[0] - before).norm() / before.norm())
        assert rows.tolist() == list(range(12, 18))
        assert own.alive[:18].all()
    assert changed["exact"] < 1e-3
    assert changed["published"] > 0.05


def test_the_named_neurons_are_the_nearest_in_weight_and_can_be_exchanged():
    own = field(num_codes=3)
    x = inputs(2, 5)
    y, codes = own(x, codes=True)
    weights = own.logits(x).softmax(-1)
    assert codes is not None
    assert torch.equal(codes.indices, weights.topk(3).indices)
    torch.testing.assert_close(codes.weights, weights.topk(3).values)
    torch.testing.assert_close(codes.entropy, -(weights * weights.log()).nan_to_num().sum(-1))

    def edit(choice: Choice) -> torch.Tensor:
        assert int(choice.without(torch.arange(20)[None] == 4).eq(4).sum()) == 0
        return torch.where(torch.arange(3) == 0, 7, choice.indices)

    edited, after = own(x, edit)
    assert after is not None
    assert (after.indices[..., 0] == 7).all()
    wanted = y + codes.weights[..., :1] * (own.values[7] - own.values[codes.indices[..., 0]])
    torch.testing.assert_close(edited, wanted)


@torch.no_grad()
def test_the_mass_of_a_start_is_as_small_as_published():
    torch.manual_seed(0)
    own = NeuronField(128, 64, 64, width="abs", null_slot=True)
    x = torch.nn.functional.layer_norm(torch.randn(500, 128), (128,))
    assert 1e-9 < float(own.mass(x).mean()) < 1e-5
    assert float(own.distances(x).mean()) == pytest.approx(12.6, abs=0.3)
    own.scale.fill_(0.05)
    assert float(own.mass(x).max()) == 0.0 or math.log(float(own.mass(x).max())) < -80
