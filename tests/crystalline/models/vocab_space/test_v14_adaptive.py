"""What is special about v14."""

import pytest
import torch

from crystalline.models.vocab_space.blocks import rms
from crystalline.models.vocab_space.v14_adaptive import Adaptive, GatedTaps, SelectiveMemory


def shaken(part, std=0.5):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return part


def build(**options):
    torch.manual_seed(0)
    options = {"mode": "faithful", "state_dtype": "fp32", **options}
    sizes = {"num_steps": 2, "kernel": 3, "channels": 4, "harmonics": 3, "slice_width": 4}
    return Adaptive(12, 30, **sizes, **options)


def test_gates_stand_half_open_at_the_start():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5)
    for how in ("scalar", "per_tap"):
        part = GatedTaps(5, 3, how)
        torch.testing.assert_close(part(x), part.conv(x)[0] / 2)


def test_a_scalar_gate_scales_all_taps_and_a_gate_a_tap_its_own():
    x = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(0))
    scalar, per_tap = shaken(GatedTaps(5, 3, "scalar")), GatedTaps(5, 3, "per_tap")
    per_tap.load_state_dict(scalar.state_dict())
    gates = (x @ scalar.gates.weight.T).sigmoid()[0]
    taps, bias = scalar.conv.weight[:, 0].T, scalar.conv.bias
    t = 4
    each = torch.stack([taps[i] * x[0, t - 2 + i] for i in range(3)])
    torch.testing.assert_close(scalar(x)[0, t], gates[t].mean() * (each.sum(0) + bias))
    torch.testing.assert_close(per_tap(x)[0, t], (gates[t, :, None] * each).sum(0) + bias)


@pytest.mark.parametrize("how", ["per_key", "cumulative"])
def test_memory_fades_as_keys_say(how):
    part = shaken(SelectiveMemory(4, "none", how))
    x = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    q, k, u = (z[0] for z in part.project(x))
    decay = (x[0] @ part.decay_weight + part.decay_logit).sigmoid()
    read = torch.zeros(6, 4)
    for t in range(6):
        for s in range(t):
            weight = decay[s] ** (t - s - 1) if how == "per_key" else decay[s + 1 : t].prod()
            read[t] += weight * (q[t] @ k[s]) / 2 * u[s]
    torch.testing.assert_close(part(x)[0], part.gain * read @ part.output.weight.T)


def test_the_slice_remembers_before_the_op_and_is_written_after_it():
    model = shaken(build(), 0.2)
    step = model.steps[0]
    x = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(0))
    y = x + step.taps.gain * step.taps.block(rms(x))
    g = y[..., :4]
    g = g + step.memory.gain * step.memory.block(rms(g))
    y = y + step.op.block(rms(y))
    y[..., 6:10] += step.gain / 2 * rms(g)  # of sqrt(4)
    torch.testing.assert_close(step(x), y)


def test_decays_that_depend_on_the_state_have_no_sum_to_divide_by():
    with pytest.raises(ValueError, match=r"model\.score_scale must be none or inv_dim or cosine"):
        build(score_scale="normalized")


def test_taps_are_at_least_one():
    with pytest.raises(ValueError, match=r"model\.kernel must be at least 1, got 0"):
        Adaptive(12, 30, kernel=0)
