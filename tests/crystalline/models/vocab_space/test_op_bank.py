"""Operations to choose from."""

import pytest
import torch

from crystalline.models.vocab_space.op_bank import OPERATIONS, OpBank, Selector, select


def test_soft_weights_are_a_softmax_that_a_temperature_sharpens():
    logits = torch.tensor([0.0, 1.0, 3.0])
    torch.testing.assert_close(select(logits, "soft", True), logits.softmax(-1))
    torch.testing.assert_close(select(logits, "gumbel_soft", False, 0.5), (2 * logits).softmax(-1))


def test_noise_draws_from_the_softmax():
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, 2.0])
    drawn = select(logits.expand(20_000, 3), "gumbel_hard", True, 0.3)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), logits.softmax(-1), atol=0.015, rtol=0)
    soft = select(logits.expand(20_000, 3), "gumbel_soft", True, 0.3)
    assert torch.equal(soft.sum(-1).round(decimals=4), torch.ones(20_000))
    counts = soft.argmax(-1).bincount().float() / 20_000
    torch.testing.assert_close(counts, logits.softmax(-1), atol=0.015, rtol=0)


def test_a_hard_choice_has_the_gradient_of_the_soft_one():
    logits = torch.tensor([[0.2, 1.0, -1.0], [3.0, 0.0, 0.5]], requires_grad=True)
    value = torch.tensor([1.0, -2.0, 0.5])
    hard = select(logits, "gumbel_hard", False, 0.7)
    assert torch.equal(hard, torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    (found,) = torch.autograd.grad((hard * value).sum(), logits)
    soft = (logits / 0.7).softmax(-1)
    (expected,) = torch.autograd.grad((soft * value).sum(), logits)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_a_selector_draws_in_training_and_in_evaluation_if_asked(answer):
    selector = Selector("gumbel_soft", answer)
    logits = torch.zeros(4, 3)
    assert not torch.equal(selector(logits), selector(logits))
    selector.eval()
    assert torch.equal(selector(logits), selector(logits)) == (answer == "no")


def test_a_temperature_goes_in_equal_steps_and_is_saved():
    selector = Selector("soft", "no", [1.0, 0.2])
    for progress, expected in ((0.0, 1.0), (0.5, 0.6), (1.0, 0.2)):
        selector.begin_round(progress)
        assert selector.temperature.item() == pytest.approx(expected)
    assert selector.state_dict()["temperature"].item() == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"model\.temperature must be two numbers above 0"):
        Selector("soft", "no", [1.0, 0.0])


@pytest.mark.parametrize("unit", [False, True])
def test_a_bank_mixes_what_each_operation_makes(unit):
    torch.manual_seed(0)
    bank = OpBank(list(OPERATIONS), 5, bias=True, unit=unit).double()
    assert bank.biases is not None
    torch.nn.init.normal_(bank.biases)
    h = torch.randn(2, 3, 5, dtype=torch.float64)
    weights = torch.rand(2, 3, len(OPERATIONS), dtype=torch.float64)
    expected = torch.zeros_like(h)
    for o, function in enumerate(OPERATIONS.values()):
        result = function(h @ bank.maps[o] + bank.biases[o])
        if unit:
            result = result / (result.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        expected += weights[..., o, None] * result
    torch.testing.assert_close(bank(h, weights), expected, atol=1e-6, rtol=1e-5)
    one = torch.zeros(len(OPERATIONS), dtype=torch.float64)
    one[1] = 1
    negated = -(h @ bank.maps[1] + bank.biases[1])
    torch.testing.assert_close(
        bank(h, one), torch.nn.functional.normalize(negated, dim=-1) * 5**0.5 if unit else negated,
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip
