"""What is special about v11a."""

import pytest
import torch

from crystalline.models.vocab_space.v11_brainwave import (
    Brainwave,
    DecayedSum,
    Gated,
    WordGate,
    published_sum,
)


def build(**options):
    torch.manual_seed(0)
    return Brainwave(16, 40, num_steps=2, d_state=4, d_gate=3, d_mlp=5, **options)


def plain_sum(x, decay):
    read, now = [], torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        read.append(now)
        now = decay * (now + x[:, t])
    return torch.stack(read, 1)


def test_the_published_sum_is_right_near_the_end_and_vanishes_before():
    torch.manual_seed(0)
    x, decay = torch.rand(1, 256, 2), torch.tensor([0.88, 0.999])
    found, right = published_sum(x, decay.log()), plain_sum(x, decay)
    torch.testing.assert_close(found[0, 120:, 0], right[0, 120:, 0], rtol=1e-3, atol=1e-3)
    assert (found[0, 1:60, 0] < 0.01 * right[0, 1:60, 0]).all()
    torch.testing.assert_close(found[..., 1], right[..., 1], rtol=1e-3, atol=1e-3)
    shorter = published_sum(x[:, :100], decay.log())  # what is said depends on what comes after
    assert not torch.allclose(shorter[..., 0], found[:, :100, 0], rtol=0.1)


@pytest.mark.parametrize(("how", "horizon"), [("published", 1.0), ("mean", 1 / (1 - 0.9))])
def test_a_mean_is_the_sum_over_its_horizon(how, horizon):
    part = DecayedSum(3, how)
    with torch.no_grad():
        part.decay_logit.fill_(torch.tensor(0.9).logit().item())
    x = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    expected = 0.1 * plain_sum(x, 0.9) / horizon
    torch.testing.assert_close(part(x), expected, rtol=1e-4, atol=1e-4)
    (pushed,) = part.word_maps(3).values()
    torch.testing.assert_close(pushed.rows(0, 3), torch.eye(3) * 0.1 * 0.9 / horizon)


def test_gates_shrink_the_state_itself():
    torch.manual_seed(0)
    gated = Gated(WordGate(5, 2))
    gate = gated.block
    x = 10 * torch.randn(2, 3, 5)
    logits = x @ gate.down.weight.T @ gate.up.weight.T + 2
    torch.testing.assert_close(gated(x), x * logits.sigmoid())


def test_all_memories_share_maps_that_are_saved_once():
    model = build()
    saved = [tuple(value.shape) for value in model.state_dict().values()]
    assert saved.count((4, 16)) == 3
    assert saved.count((16, 4)) == 1
    memories = [step.parts[index].block for step in model.steps for index in (1, 4)]
    assert [round(m.decay_logit.item()) for m in memories] == [4, 1, 4, 1]
    x = torch.randn(2, 6, 16)
    before = [memory(x) for memory in memories]
    with torch.no_grad():
        model.values.weight.mul_(2)
    for memory, was in zip(memories, before, strict=True):
        torch.testing.assert_close(memory(x), 2 * was)
