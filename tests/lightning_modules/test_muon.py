"""Two optimizers as one: who takes what, what a step does, that it resumes like others."""

import copy
import math
import signal

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.nn import Parameter

from crystalline.command import CONF_DIR, register
from lightning_modules.muon import MuonAdamW
from lightning_modules.objectives import Dual, Single, step
from lightning_modules.schedules import Schedule
from tests.crystalline.test_resume import stop
from tests.model_zoo import build
from tests.running import resume, train


def muon(params, **options):
    return MuonAdamW(params, **{"lr": 0.5, "adam_lr": 0.25, "weight_decay": 0.1, **options})


def parameters(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def with_gradients(found, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for parameter in found:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_a_matrix_moves_by_a_matrix_of_about_equal_singular_values():
    [matrix] = parameters((12, 3))
    before = matrix.detach().clone()
    optimizer = muon([matrix], weight_decay=0.0)
    with_gradients([matrix])
    optimizer.step()
    moved = (before - matrix.detach()) / (0.5 * math.sqrt(12 / 3))
    values = torch.linalg.svdvals(moved)
    assert values.min() > 0.5
    assert values.max() < 1.5
    assert not optimizer.state[matrix].keys() & {"exp_avg", "exp_avg_sq"}


def test_all_else_moves_as_with_adamw():
    matrix, vector, cube, codes = parameters((4, 3), (5,), (2, 3, 4), (6, 2))
    twins = [Parameter(p.detach().clone()) for p in (vector, cube, codes)]
    optimizer = muon(
        [
            {"params": [matrix, cube]},
            {"params": [vector], "weight_decay": 0.0},
            {"params": [codes], "lr": 0.01, "weight_decay": 0.3},
        ]
    )
    plain = torch.optim.AdamW(
        [
            {"params": [twins[0]], "weight_decay": 0.0},
            {"params": [twins[1]]},
            {"params": [twins[2]], "lr": 0.01, "weight_decay": 0.3},
        ],
        lr=0.25,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        fused=True,
    )
    for seed in range(3):
        with_gradients([vector, cube, codes], seed)
        with_gradients(twins, seed)
        optimizer.step()
        plain.step()
    for mine, other in zip((vector, cube, codes), twins, strict=True):
        assert torch.equal(mine, other)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25, 0.25, 0.01]


def test_rates_that_a_schedule_sets_reach_both():
    found = parameters((4, 3), (5,))
    before = [p.detach().clone() for p in found]
    optimizer = muon(found, weight_decay=0.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    with_gradients(found)
    optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(found, before, strict=True))


def test_a_loaded_state_goes_on_exactly():
    found, twins = parameters((4, 3), (5,)), parameters((4, 3), (5,))
    optimizer = muon(found)
    for seed in range(3):
        with_gradients(found, seed)
        optimizer.step()
    other = muon(twins, lr=1.0, adam_lr=1.0)  # the state brings its rates
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with torch.no_grad():
        for twin, parameter in zip(twins, found, strict=True):
            twin.copy_(parameter)
    for each, own in ((optimizer, found), (other, twins)):
        with_gradients(own, 7)
        each.step()
    assert all(torch.equal(p, twin) for p, twin in zip(found, twins, strict=True))
    assert len(other.state) == 2


def test_a_skipped_step_changes_nothing():
    found = parameters((4, 3), (5,))
    before = [p.detach().clone() for p in found]
    optimizer = muon(found)
    for parameter in found:
        parameter.grad = torch.full_like(parameter, float("nan"))
    step(optimizer, torch.tensor(True), optimizer.step)
    assert all(torch.equal(p, old) for p, old in zip(found, before, strict=True))
    assert not optimizer.state


@pytest.mark.parametrize("name", ["transformer", "ziggurat_2", "ziggurat_gate"])
@pytest.mark.parametrize(
    "objective",
    [Dual(1, None, Schedule(), 1e-3, 0.0, None, False), Single(1, None, Schedule())],
    ids=["dual", "single"],
)
def test_codes_are_never_muons_and_matrices_always_are(name, objective):
    model = build(name)
    codes = {id(p) for _, p in model.codebook_parameters()}
    seen = set()
    for role, optimizer in objective.optimizers(model, muon).items():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                wanted = parameter.ndim == 2 and id(parameter) not in codes
                assert ("momentum" in group) is wanted
                seen.add(id(parameter))
            if role == "codes":
                assert group["lr"] == 1e-3
    assert seen == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": -1.0}, "earning rate"),
        ({"adam_lr": -1.0}, "earning rate"),
        ({"momentum": -1}, "mom"),
    ],
)
def test_numbers_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        muon(parameters((4, 3), (5,)), **options)


def test_codes_learn_at_a_tenth_of_adams_rate_unless_said():
    register()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("config", ["optimizer=muon", "optimizer.adam_lr=0.5"])
        assert config.objective.codebook_lr == pytest.approx(0.05)
        config = compose("config", ["optimizer.lr=0.5"])
        assert config.objective.codebook_lr == pytest.approx(0.05)


@pytest.mark.slow
def test_stop_and_go_is_the_same_run(corpus, tmp_path):
    options = ("optimizer=muon", "trainer.max_steps=8", "model.dropout=0.2")
    whole = train(corpus, tmp_path / "whole", *options)
    parts = train(corpus, tmp_path / "parts", *options, stop(3))
    assert parts.status == 128 + signal.SIGTERM
    assert resume(parts.last).status == 0
    assert len(whole.losses()) > 8 * 4
    assert parts.losses() == whole.losses()
    weights = [torch.load(run.last, weights_only=True)["state_dict"] for run in (whole, parts)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
