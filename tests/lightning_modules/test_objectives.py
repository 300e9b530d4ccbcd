"""Who owns which parameter, and that the two optimizers of `dual` do not disturb each other."""

import logging
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from lightning_modules.objectives import Dual, Objective, Single, step
from lightning_modules.schedules import Schedule
from tests.model_zoo import MODELS, VOCAB, build, ziggurat

ADAMW = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)


def dual(clip=None, codebook_clip=None, joint_clip=False) -> Dual:
    return Dual(1, clip, Schedule(), 1e-3, 0.0, codebook_clip, joint_clip)


def single() -> Single:
    return Single(1, None, Schedule())


def owned(optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("objective", [dual(), single()], ids=["dual", "single"])
def test_every_trainable_parameter_has_exactly_one_optimizer(name, objective: Objective):
    model = build(name)
    ids = [id(p) for opt in objective.optimizers(model, ADAMW).values() for p in owned(opt)]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["transformer", "ziggurat_2", "ziggurat_source", "ziggurat_gate"])
@pytest.mark.parametrize("objective", [dual(), single()], ids=["dual", "single"])
def test_codes_norms_biases_and_gates_do_not_decay_and_matrices_do(name, objective):
    model = build(name)
    decay = {
        id(p): group["weight_decay"]
        for opt in objective.optimizers(model, ADAMW).values()
        for group in opt.param_groups
        for p in group["params"]
    }
    codes = {parameter_name for parameter_name, _ in model.codebook_parameters()}
    seen = set()
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = key in codes or key.endswith("bias") or ".norm" in key or key.endswith(".gate")
        if parameter.ndim < 2:
            exempt = True
        seen.add(exempt)
        assert decay[id(parameter)] == (0.0 if exempt else 0.1), key
    assert seen == {True, False}


def test_the_codes_have_their_own_rate():
    optimizers = dual().optimizers(build("ziggurat_2"), ADAMW)
    assert optimizers["main"].param_groups[0]["lr"] == 1e-2
    assert optimizers["codes"].param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize(
    "model",
    [
        lambda: build("transformer"),
        lambda: build("ziggurat_ema"),
        lambda: ziggurat(quantizer={"update": "frozen"}),
        lambda: build("ziggurat_none"),
    ],
    ids=["no codebook", "ema", "frozen", "placement none"],
)
def test_without_codes_to_train_dual_builds_one_optimizer_and_says_so(model, caplog):
    with caplog.at_level(logging.INFO, "lightning_modules.objectives"):
        assert list(dual().optimizers(model(), ADAMW)) == ["main"]
    assert "there is one optimizer" in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        *("ziggurat_2", "ziggurat_3", "ziggurat_source", "ziggurat_add", "ziggurat_stream"),
        *("ziggurat_add_rotation", "ziggurat_xattn"),
    ],
)
def test_one_backward_of_the_sum_equals_one_for_the_codes_and_one_for_all_else(name):
    model = build(name)
    tokens = torch.randint(VOCAB, (2, 17))
    output = model(tokens[:, :-1])
    weights = model.loss_weights(0.5)
    codebook = weights["codebook"] * output.losses["codebook"]
    rest = F.cross_entropy(output.logits.flatten(0, 1), tokens[:, 1:].flatten())
    for key, value in output.losses.items():
        if key != "codebook" and weights[key]:
            rest = rest + weights[key] * value

    named = {key: p for key, p in model.named_parameters() if p.requires_grad}
    codes = {key for key, _ in model.codebook_parameters()}

    def gradients(loss):
        found = torch.autograd.grad(
            loss, list(named.values()), retain_graph=True, allow_unused=True
        )
        return dict(zip(named, found, strict=True))

    of_codes, of_rest, of_sum = gradients(codebook), gradients(rest), gradients(codebook + rest)
    reached = 0
    for key in named:
        mine, other = (of_codes, of_rest) if key in codes else (of_rest, of_codes)
        assert other[key] is None or not other[key].any(), key
        if mine[key] is not None:
            assert torch.equal(mine[key], of_sum[key]), key
            reached += bool(mine[key].any())
    assert reached > 10
    assert any(of_codes[key] is not None and of_codes[key].any() for key in codes)


def with_gradients(main: float, codes: float):
    """A model whose gradients have these norms for the codes and for all else."""
    model = build("ziggurat_2")
    optimizers = dual().optimizers(model, ADAMW)
    for name, norm in {"main": main, "codes": codes}.items():
        for parameter in owned(optimizers[name]):
            parameter.grad = torch.ones_like(parameter)
        count = sum(p.numel() for p in owned(optimizers[name]))
        for parameter in owned(optimizers[name]):
            parameter.grad *= norm / count**0.5
    return optimizers


def norm_of(optimizer) -> float:
    return float(torch.cat([p.grad.flatten() for p in owned(optimizer)]).norm())


def test_each_optimizer_clips_its_own_norm():
    optimizers = with_gradients(main=3.0, codes=4.0)
    norms = dual(clip=1.0, codebook_clip=2.0).clip_gradients(optimizers)
    assert {name: float(n) for name, n in norms.items()} == pytest.approx(
        {"main": 3.0, "codes": 4.0}, rel=1e-4
    )
    assert norm_of(optimizers["main"]) == pytest.approx(1.0, rel=1e-4)
    assert norm_of(optimizers["codes"]) == pytest.approx(2.0, rel=1e-4)


def test_a_joint_clip_scales_both_by_the_norm_over_all():
    optimizers = with_gradients(main=3.0, codes=4.0)
    norms = dual(clip=1.0, codebook_clip=2.0, joint_clip=True).clip_gradients(optimizers)
    assert float(norms["main"]) == pytest.approx(5.0, rel=1e-4)
    assert norm_of(optimizers["main"]) == pytest.approx(0.6, rel=1e-4)
    assert norm_of(optimizers["codes"]) == pytest.approx(0.8, rel=1e-4)


def test_without_a_limit_gradients_stay_and_their_norm_is_told():
    optimizers = with_gradients(main=30.0, codes=4.0)
    norms = dual().clip_gradients(optimizers)
    assert float(norms["main"]) == pytest.approx(30.0, rel=1e-4)
    assert norm_of(optimizers["main"]) == pytest.approx(30.0, rel=1e-4)


@pytest.mark.parametrize("fused", [True, False])
def test_a_skipped_step_changes_neither_weights_nor_momentum(fused):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=fused)
    parameter.grad = torch.ones(3)
    step(optimizer, torch.tensor(False), optimizer.step)
    before = parameter.detach().clone(), optimizer.state[parameter]["exp_avg"].clone()
    assert not torch.equal(before[0], torch.ones(3))
    parameter.grad = torch.full((3,), float("nan"))
    step(optimizer, torch.tensor(True), optimizer.step)
    assert torch.equal(parameter, before[0])
    assert torch.equal(optimizer.state[parameter]["exp_avg"], before[1])


@pytest.mark.parametrize(("accumulate", "clip"), [(0, 1.0), (1, 0.0)])
def test_impossible_numbers_are_refused_with_their_key(accumulate, clip):
    with pytest.raises(ValueError, match=r"objective\.(accumulate|clip)"):
        Single(accumulate, clip, Schedule())
