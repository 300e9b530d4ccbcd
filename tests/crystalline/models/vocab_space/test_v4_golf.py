"""Passes that share steps."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from crystalline.models.vocab_space.v4_golf import Golf

SIZES: dict[str, Any] = {"channels": 8, "harmonics": 3, "num_heads": 2, "rank": 2}


def shaken(**options: Any) -> Any:
    torch.manual_seed(0)
    model = Golf(16, 12, **SIZES, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def norm(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def read_past(step, call, x):
    """The memory's update, pair by pair."""
    memory = step.memory.block
    z = norm(x) @ memory.basis()
    q, k = (F.normalize(m.owned[0](z), dim=-1) for m in (memory.queries, memory.keys))
    u, read = memory.values(z), torch.zeros_like(q)
    for head, part in enumerate((slice(0, 4), slice(4, 8))):
        decay = torch.sigmoid(memory.decay_logit[head] + call.decay_shift[head])
        for t in range(x.shape[1]):
            for s in range(t):
                score = (q[:, t, part] * k[:, s, part]).sum(-1, keepdim=True)
                read[:, t, part] += decay ** (t - s - 1) * score * u[:, s, part]
    return memory.gain * read @ memory.output.weight @ memory.basis().T


def test_a_model_is_what_its_formula_says():
    model = shaken(num_steps=4, unique_steps=2, mode="faithful", state_dtype="fp32")
    tokens = torch.randint(16, (2, 6))
    x = 4.0 * F.one_hot(tokens, 16)
    for number, call in enumerate(model.calls):
        step = model.steps[number // 2]
        x = x + call.across * step.memory.gain * read_past(step, call, x)
        op = step.op.block
        weights = (op.reader.basis() @ op.reader.weight.T).softmax(0)
        mix = op.mix.diagonal.diag() + op.mix.down @ op.mix.up
        hidden = F.gelu(norm(x) @ weights @ mix + op.bias)
        written = op.gain * hidden @ op.writer.weight @ op.writer.basis().T
        x = call.keep * (x + call.within * step.op.gain * written)
    expected = 30 * torch.tanh(model.head.gamma * norm(x) / 30)
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)


def test_passes_take_a_step_several_times_in_a_row():
    assert shaken().order == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert shaken(num_steps=7, unique_steps=3).order == [0, 0, 0, 1, 1, 2, 2]


def test_shared_maps_are_saved_and_counted_once():
    model = shaken()
    saved = model.state_dict()
    maps = [name for name in saved if name.endswith(("queries.weight", "keys.weight"))]
    assert sorted(maps) == ["keys.weight", "queries.weight"]
    assert sum(value.numel() for value in saved.values()) == model.count_parameters()["parameters"]


def test_every_call_learns_its_own_decays():
    model = shaken()
    model(torch.randint(16, (2, 12))).logits.square().sum().backward()
    shifts = [call.decay_shift.grad for call in model.calls]
    assert all(s is not None and s.abs().min() > 0 for s in shifts)
    fresh: Any = Golf(16, 12, **SIZES).steps[0]
    assert fresh.memory.block.decay_logit.tolist() == [1, 5]


def test_wrong_numbers_are_named():
    with pytest.raises(ValueError, match=r"model\.unique_steps must lie in \[1, num_steps=4\]"):
        Golf(16, 12, num_steps=4)
    with pytest.raises(ValueError, match=r"model\.num_heads=3 does not divide channels=8"):
        Golf(16, 12, channels=8, harmonics=3, num_heads=3)
