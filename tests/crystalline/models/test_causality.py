"""Every model: the past ignores the future, bit for bit, and steps repeat the forward pass."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.model_zoo import MODELS, build

FULL = 40
LEARNING = {  # one for each way to learn; the other models by hand
    "transformer", "ziggurat_2", "ziggurat_source", "ziggurat_ema", "crystalline",
    "crystalline_soft", "codebook_features",
}  # fmt: skip


def perturbed(length: int, where: torch.Tensor) -> torch.Tensor:
    """A text in row 0; in row i + 1, the text with other tokens where `where[i]` says so."""
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(0, 30, (length,), generator=generator).repeat(len(where) + 1, 1)
    tokens[1:] += 7 * where
    return tokens % 30


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", MODELS)
def test_future_tokens_leave_past_logits_unchanged(name):  # T2
    model = build(name).eval()
    for length in range(1, FULL + 1):
        firsts = sorted({0, length // 2, length - 1})  # of every place: the next test
        later = torch.ones(length, length, dtype=torch.bool).triu()[firsts]
        with torch.no_grad():
            text, *others = model(perturbed(length, later)).logits
        for first, other in zip(firsts, others, strict=True):
            assert torch.equal(other[:first], text[:first]), (length, first)
            assert not torch.equal(other[first:], text[first:]), (length, first)


@pytest.mark.parametrize("name", MODELS)
def test_every_single_token_of_a_full_window_is_causal(name):
    model = build(name).eval()
    with torch.no_grad():
        output = model(perturbed(FULL, torch.eye(FULL, dtype=torch.bool)), codes=True)
    for changed in range(FULL):
        text, other = output.logits[0], output.logits[changed + 1]
        assert torch.equal(other[:changed], text[:changed])
        assert not torch.equal(other[changed:], text[changed:])
        for codes in output.codes.values():  # codes are causal as well
            seen = codes.last_tokens()[0] < changed
            assert torch.equal(codes.indices[changed + 1, seen], codes.indices[0, seen])


@pytest.mark.parametrize("name", MODELS)
def test_steps_of_any_size_repeat_the_forward_pass(name):
    model = build(name).eval()
    tokens = torch.randint(0, 30, (2, FULL), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        full = model(tokens).logits
        cache = model.init_cache(2)
        bounds = [0, 7, 8, 9, 11, 20, FULL]
        parts = [model.step(tokens[:, a:b], cache) for a, b in pairwise(bounds)]
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in LEARNING else pytest.mark.slow) for n in MODELS],
)
def test_one_batch_can_be_learned(name):
    model = build(name)
    tokens = torch.randint(0, 30, (2, 13), generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    weights = model.loss_weights(0.0)
    losses = []
    for _ in range(150):
        output = model(tokens[:, :-1])
        loss = cross_entropy(output.logits.flatten(0, 1), tokens[:, 1:].flatten())
        losses.append(loss.item())
        if losses[-1] < 1.5:
            break
        optimizer.zero_grad()
        (loss + sum(weights[n] * v for n, v in output.losses.items())).backward()
        optimizer.step()
    assert losses[0] > 3.0, "chance is ln 30 = 3.4 nats"
    assert losses[-1] < 1.5


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient_but_those_that_the_model_names(name):
    model = build(name)
    output = model(torch.randint(0, 30, (2, 16)))
    weights = model.loss_weights(0.0)
    auxiliary = [weights[n] * v for n, v in output.losses.items() if weights[n]]
    (output.logits.logsumexp(-1).mean() + sum(auxiliary)).backward()
    idle = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert idle == model.parameters_without_gradient()
