from functools import partial

import pytest
import torch

from crystalline.benchmark.training_step import StepCase
from crystalline.models.transformer import Transformer

TINY = partial(Transformer, 11, 6, 8, 1, 2)


def case(**options):
    return StepCase(TINY, **{"batch_size": 3, "devices": ["cpu"]} | options)


def test_a_step_takes_all_gradients_and_gives_the_likeliest_next_tokens(monkeypatch):
    pulled = []
    grad = torch.autograd.grad

    def noting(loss, learned, **options):
        pulled.extend(learned)
        return grad(loss, learned, **options)

    monkeypatch.setattr(torch.autograd, "grad", noting)
    (name, call), *others = case().contestants(torch.device("cpu")).items()
    assert name == StepCase.baseline
    assert not others  # graphs are a GPU's, and there compilation is what counts
    assert torch.equal(call(), case().reference(torch.device("cpu")))
    assert len(pulled) == len(list(TINY().parameters()))


def test_the_title_counts_parameters_and_tokens():
    parameters = sum(each.numel() for each in TINY().parameters())
    assert case().title == f"Transformer, {parameters:,} parameters, 3 x 6 tokens"


def test_no_sequences_are_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        case(batch_size=0)


@pytest.mark.gpu
def test_replayed_and_compiled_steps_choose_alike():
    device = torch.device("cuda")
    reference = case().reference(device)
    for name, call in case().contestants(device).items():
        for _ in range(6):  # the fifth call is recorded
            answer = call()
        assert torch.equal(answer, reference), name
