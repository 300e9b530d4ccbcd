"""The whole model: who sees what, what is held back, what survives a birth and a resumption."""

import copy

import pytest
import torch
from hydra.utils import instantiate

from callbacks.renewals import follow
from crystalline.models.crystal import Crystal
from crystalline.models.crystal.freezing import Soft
from crystalline.models.crystal.growth import Growth
from crystalline.models.modes import MODES
from tests.composing import composed
from tests.selection import often

ARMS = [
    "crystal", "crystal/blind", "crystal/cascaded", "crystal/progressive", "crystal/multi_scale",
    "crystal/tidal", "crystal/rising_tide_v1", "crystal/rising_tide_v2", "crystal/rising_tide_v3",
    "crystal/long", "crystal/annealed", "crystal/position_weighted", "crystal/field_heads",
    "crystal/geometric", "crystal/plateau",
]  # fmt: skip
TOKENS = torch.randint(0, 30, (2, 12), generator=torch.Generator().manual_seed(0))


def tiny(**options) -> Crystal:
    torch.manual_seed(0)
    options = {"capacity": 40, "founders": 8, "attention": "every"} | options
    return Crystal(30, 12, 16, **options)


def trained(model: Crystal, rounds: int, optimizer=None, first: int = 0, lr: float = 1e-2):
    """Rounds as the Lightning module makes them; an epoch is one round."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr, weight_decay=0.1)
    for round_ in range(first, first + rounds):
        generator = torch.Generator().manual_seed(round_)
        tokens = torch.randint(0, 30, (4, 13), generator=generator)
        model.begin_round(0.0)
        optimizer.zero_grad()
        model(tokens[:, :-1]).cross_entropy(tokens[:, 1:].contiguous()).loss.backward()
        model.after_backward()
        optimizer.step()
        model.end_round(torch.tensor(False))
        for renewal in model.end_epoch(round_ + 1, 0, None):
            follow([optimizer], renewal)
    return optimizer


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "name", often(ARMS, "crystal", "crystal/progressive", "crystal/tidal", "crystal/geometric")
)
def test_every_arm_takes_a_step_and_changes_with_it(name, mode):
    config = composed(
        f"model={name}", f"model.mode={mode}", "model.vocab_size=30", "model.d_model=16",
        "model.context_length=12",
    )  # fmt: skip
    torch.manual_seed(0)
    model = instantiate(config.model, _convert_="all")
    before = copy.deepcopy(model.state_dict())
    trained(model, 1)
    changed = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert {"embedding.weight", "blocks.0.mlp.up.weight"} <= set(changed)
    found = model(TOKENS, codes=True).codes
    assert set(found) == set(model.fields())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_blind_model_sees_no_earlier_token_and_the_other_one_does():
    order = torch.randperm(11, generator=torch.Generator().manual_seed(3))
    shuffled = torch.cat([TOKENS[:, :11][:, order], TOKENS[:, 11:]], 1)
    for attention, blind in (("none", True), ("every", False)):
        model = tiny(attention=attention).eval()
        same = torch.equal(model(TOKENS).logits[:, -1], model(shuffled).logits[:, -1])
        assert same == blind


@pytest.mark.parametrize("rounds", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_frozen_rows_stay_bit_for_bit_and_the_published_ones_drift(rounds):
    for mode in MODES:
        model = tiny(mode=mode, growth=Growth(10**6, [[1.0, 0]]))
        optimizer = trained(model, 5)
        field = model.fields()["blocks.0.field"]
        rows = torch.arange(3)
        field.frozen[rows], field.rate[rows] = True, 0.0
        before = [p.detach()[rows].clone() for p in field.row_parameters()]
        trained(model, rounds, optimizer, first=5)
        after = [p.detach()[rows] for p in field.row_parameters()]
        same = all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
        assert same == (mode == "repaired")
        if mode == "repaired":
            assert not field.positions.grad[rows].any()


def test_a_slow_neuron_moves_by_its_share_of_the_update():
    moved = {}
    for rate in (1.0, 0.5, 0.01):
        model = tiny(growth=Growth(10**6, [[1.0, 0]]))
        field = model.fields()["blocks.0.field"]
        field.rate[2] = rate
        before = field.positions.detach()[2].clone()
        trained(model, 1)
        moved[rate] = float((field.positions.detach()[2] - before).norm())
    assert moved[0.5] / moved[1.0] == pytest.approx(0.5, rel=0.01)
    assert moved[0.01] / moved[1.0] == pytest.approx(0.01, rel=0.01)


def test_scaling_gradients_as_published_slows_nothing_down():
    moved = {}
    for rate in (1.0, 0.01):
        model = tiny(mode="faithful", attention="every", growth=Growth(10**6, [[1.0, 0]]))
        field = model.fields()["blocks.0.field"]
        field.rate[2] = rate
        before = field.positions.detach()[2].clone()
        trained(model, 20)
        moved[rate] = float((field.positions.detach()[2] - before).norm())
    assert moved[0.01] > 0.7 * moved[1.0]


def test_ages_set_the_rates_of_soft_freezing():
    model = tiny(freezing=Soft(halflife=50, floor=0.01), growth=Growth(10, [[1.0, 4]]))
    for epoch in range(1, 121):
        model.end_epoch(epoch, 0, None)
    field = model.fields()["blocks.0.field"]
    assert float(field.rate[0]) == pytest.approx(0.5 ** (120 / 50))
    assert float(field.rate[8]) == pytest.approx(0.5 ** (110 / 50))


def test_optimizers_keep_what_they_know_of_all_others_when_neurons_are_born():
    model = tiny(growth=Growth(4, [[1.0, 3]]))
    optimizer = trained(model, 3)
    field = model.fields()["blocks.0.field"]
    trained(model, 1, optimizer, first=3)
    born, parents = torch.tensor([8, 9, 10]), field.parent[8:11]
    state = optimizer.state[field.positions]
    assert not state["exp_avg"][born].any()
    assert torch.equal(state["exp_avg_sq"][born], state["exp_avg_sq"][parents])
    assert state["exp_avg"][parents].any()
    assert state["exp_avg"][:8].abs().sum() > 0
    assert optimizer.state[model.embedding.weight]["step"] == 4


def test_the_published_optimizer_forgets_all_at_a_birth():
    model = tiny(mode="faithful", attention="every", growth=Growth(4, [[1.0, 3]]))
    optimizer = trained(model, 4)
    assert not optimizer.state


def test_stop_and_go_over_a_birth_is_the_same_training():
    whole = tiny(growth=Growth(4, [[1.0, 3]]))
    trained(whole, 10)
    first = tiny(growth=Growth(4, [[1.0, 3]]))
    before = trained(first, 6)
    second = tiny(growth=Growth(4, [[1.0, 3]]))
    second.load_state_dict(first.state_dict())
    optimizer = torch.optim.AdamW(second.parameters(), 1e-2, weight_decay=0.1)
    optimizer.load_state_dict(before.state_dict())
    trained(second, 4, optimizer, first=6)
    state = second.state_dict()
    assert int(whole.fields()["blocks.0.field"].alive.sum()) == 14
    assert all(torch.equal(v, state[k]) for k, v in whole.state_dict().items())


def test_a_new_block_of_the_repaired_stack_changes_nothing():
    config = composed(
        "model=crystal/progressive", "model.vocab_size=30", "model.d_model=16",
        "model.context_length=12",
    )  # fmt: skip
    model = instantiate(config.model, _convert_="all").eval()
    before = model(TOKENS).logits
    model.hand_over.min_epochs, model.hand_over.frozen = 1, 0.0
    model.hand_over.end_epoch(list(model.blocks), 40, silent=True)
    assert [bool(b.opened) for b in model.blocks] == [True, True, False, False, False, False]
    torch.testing.assert_close(model(TOKENS).logits, before)
    kept = [p.detach().clone() for p in model.blocks[0].parameters()]
    trained(model, 3)
    for parameter, old in zip(model.blocks[0].parameters(), kept, strict=True):
        assert torch.equal(parameter, old)
    assert model.blocks[1].mlp.down.weight.abs().sum() > 0
    assert not model.blocks[2].mlp.down.weight.any()


def test_an_export_says_the_same_without_the_room():
    model = tiny(growth=Growth(4, [[1.0, 3]]))
    trained(model, 10)
    smaller = model.for_export().eval()
    config = {"growth": 1, "capacity": 40, "num_layers": 1}
    assert smaller.export_config(config)["capacity"] == [14]
    torch.testing.assert_close(smaller(TOKENS).logits, model.eval()(TOKENS).logits)
    again = tiny(capacity=[14], founders=14)
    again.load_state_dict(smaller.state_dict())
    torch.testing.assert_close(again.eval()(TOKENS).logits, model(TOKENS).logits)
    assert model.count_parameters() == again.count_parameters()


def test_census_and_ablations_name_what_is_there():
    model = tiny(growth=Growth(4, [[1.0, 3]]))
    trained(model, 4)
    census = model.census()["blocks.0.field"]
    assert census["row"].tolist() == list(range(11))
    assert census["positions"].shape == (11, 16)
    assert census["parent"][:8].eq(-1).all()
    whole = model.eval()(TOKENS).logits
    for parameters in model.ablations().values():
        kept = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for parameter in parameters:
                parameter.zero_()
            assert not torch.equal(model(TOKENS).logits, whole)
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.copy_(before)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"memory": "mpl"}, "model.memory"),
        ({"founders": 50}, "model.founders"),
        ({"field_heads": 3}, "model.field_heads"),
        ({"split": "half"}, "model.split"),
        ({"mode": "fathful"}, "model.mode"),
        ({"fading": 0.0}, "model.fading"),
        ({"spilt": "exact"}, "model.spilt"),
    ],
)
def test_what_a_user_gets_wrong_names_the_key(options, key):
    with pytest.raises(ValueError, match=key):
        tiny(**options)
