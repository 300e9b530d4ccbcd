"""Instructions of a shared bank."""

from typing import Any

import pytest
import torch

from crystalline.models.vocab_space.v7_lgp import Lgp

FUNCTIONS = (
    lambda x: x, torch.relu, torch.nn.functional.gelu, torch.square, torch.neg, torch.abs,
    torch.tanh, torch.sigmoid, lambda x: x, torch.relu,
)  # fmt: skip


def build(vocab_size: int = 16, **options: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"num_steps": 2, "channels": 5, "harmonics": 3, **options}
    return Lgp(vocab_size, 64, **sizes).eval()


def norm(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize("mode", ["faithful", "repaired"])
def test_an_instruction_is_what_its_formula_says(mode):
    model = build(num_ops=10, mode=mode)
    instruction = model.steps[1].parts[1].block
    for parameter in (instruction.logits, model.bank.maps, model.bank.biases):
        torch.nn.init.normal_(parameter)
    x, phi = torch.randn(2, 3, 16), model.basis()
    read = phi @ instruction.reader.weight.T
    h = x @ (read.softmax(0) if mode == "faithful" else read)
    mixed = torch.zeros_like(h)
    for o, weight in enumerate(instruction.logits.softmax(0)):
        y = FUNCTIONS[o](h @ model.bank.maps[o] + model.bank.biases[o])
        mixed += weight * (y if mode == "faithful" else norm(y))
    expected = 0.1 * mixed @ instruction.writer.weight @ phi.T
    torch.testing.assert_close(instruction(x), expected, atol=1e-5, rtol=1e-5)


def test_as_published_nothing_is_drawn_and_words_choose_nothing():
    model = build(mode="faithful").train()
    instruction = model.steps[0].parts[1].block
    assert torch.equal(instruction.logits, torch.zeros(8))
    shares = instruction.listing(torch.randn(2, 3, 16))["operation"].shares
    assert torch.equal(shares, torch.full((2, 3, 8), 1 / 8))
    tokens = torch.randint(16, (2, 9))
    assert torch.equal(model(tokens).logits, model(tokens).logits)


def test_a_hard_selection_applies_one_operation_a_step():
    model = build(selection="gumbel_hard", operand_scale="published")
    instruction = model.steps[0].parts[1].block
    with torch.no_grad():
        instruction.logits[3] = 2.0  # square
    x = torch.randn(2, 3, 16)
    h = instruction.reader(x) @ model.bank.maps[3] + model.bank.biases[3]
    torch.testing.assert_close(instruction(x), 0.1 * instruction.writer(h.square()))
    model.train()
    tokens = torch.randint(16, (2, 9))
    assert not torch.equal(model(tokens).logits, model(tokens).logits)
    model(tokens).logits.square().sum().backward()
    assert instruction.logits.grad.abs().min() > 0  # of those that were not drawn, too


def test_the_bank_is_saved_and_counted_once():
    model = build()
    saved = model.state_dict()
    assert sorted(n for n in saved if "bank" in n) == ["bank.biases", "bank.maps"]
    learned = sum(v.numel() for name, v in saved.items() if "temperature" not in name)
    assert learned == model.count_parameters()["parameters"]


def test_states_explode_as_published_alone():
    size = {}
    for mode in ("faithful", "repaired"):
        options = {"channels": 128, "harmonics": 16, "num_steps": 3}
        model = build(1024, mode=mode, state_dtype="fp32", **options)
        x = model.start(torch.randint(1024, (1, 64)))
        with torch.no_grad():
            for step in model.steps:
                x = step(x)
        size[mode] = x.square().mean().sqrt()
    assert size["repaired"] < 2 < 1000 < size["faithful"]
