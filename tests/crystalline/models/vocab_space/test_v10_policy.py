"""What positions decide."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from crystalline.models.vocab_space.v10_policy import Policy

FUNCTIONS = (
    F.gelu, F.relu, lambda x: F.relu(x).square(), F.silu, torch.tanh, torch.sigmoid,
    lambda x: x, torch.neg,
)  # fmt: skip


def build(vocab_size: int = 16, **options: Any) -> Any:
    torch.manual_seed(0)
    return Policy(vocab_size, 64, **{"num_steps": 2, "d_state": 5, **options}).eval()


def norm(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("mode", ["faithful", "repaired"])
def test_a_step_is_what_its_formula_says(mode):
    model = build(mode=mode, score_scale="none")
    op = model.steps[1].parts[0].block
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, 3, 16)
    h = x @ op.compress.weight.T
    q, k, u = (h @ m.weight.T for m in (op.memory.queries, op.memory.keys, op.memory.values))
    decay, read = op.memory.decay_logit.sigmoid(), torch.zeros_like(h)
    for t in range(3):
        for s in range(t):
            score = (q[:, t] * k[:, s]).sum(-1, keepdim=True)
            read[:, t] += decay ** (t - s - 1) * score * u[:, s]
    h = h + op.memory.gain * read
    hidden = F.gelu(op.decisions.hidden(h))
    answers = hidden @ op.decisions.decide.weight.T + op.decisions.decide.bias
    rho, omega = answers[..., :5].softmax(-1), answers[..., 5:13].softmax(-1)
    rho = rho if mode == "faithful" else 5 * rho
    y = sum(
        omega[..., o, None] * function((h * rho) @ model.bank.maps[o])
        for o, function in enumerate(FUNCTIONS)
    )
    y = y if mode == "faithful" else norm(y)
    expected = op.gain * (y * answers[..., 13:].sigmoid()) @ op.expand.weight.T
    torch.testing.assert_close(op(x), expected, atol=1e-5, rtol=1e-5)


def test_every_position_chooses_for_itself():
    op = build(selection="gumbel_hard").steps[0].parts[0].block
    with torch.no_grad():
        op.decisions.decide.weight[5:13] = torch.randn(8, 10)
        op.decisions.hidden.weight.mul_(100)
    shares = op.listing(4 * torch.randn(2, 20, 16))["operation"].shares
    assert shares.max(-1).values.eq(1).all()
    assert len(shares.argmax(-1).unique()) > 1


def test_updates_are_tiny_as_published_alone():
    size = {}
    for mode in ("faithful", "repaired"):
        model = build(1024, mode=mode, d_state=64, state_dtype="fp32")
        x = model.start(torch.randint(1024, (1, 32)))
        with torch.no_grad():
            update = model.steps[0](x) - x
        size[mode] = (update - update.mean(1, keepdim=True)).std()  # what words have a say in
    assert size["faithful"] < 2e-5 < 1e-3 < size["repaired"]  # of states of size 1


def test_the_bank_is_saved_and_counted_once():
    model = build()
    saved = model.state_dict()
    assert [name for name in saved if "bank" in name] == ["bank.maps"]
    learned = sum(value.numel() for name, value in saved.items() if "temperature" not in name)
    assert learned == model.count_parameters()["parameters"]


def test_there_are_eight_operations_at_most():
    assert build(num_ops=3).bank.operations == ["gelu", "relu", "relu2"]
    with pytest.raises(ValueError, match=r"model\.num_ops must lie in \[1, 8\], got 9"):
        build(num_ops=9)
