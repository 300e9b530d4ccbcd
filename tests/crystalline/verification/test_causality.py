"""The test that every model passes before a benchmark trains it."""

import torch

from crystalline.contract import ModelOutput
from crystalline.verification.causality import first_leak
from tests.model_zoo import build
from tests.tiny_models import RunningMean


def test_causal_models_pass_and_are_left_as_they_were():
    model = build("ziggurat_2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    assert first_leak(model) is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Peeking(RunningMean):
    """Reads its last token everywhere, in training alone."""

    def forward(self, tokens, **options):
        output = super().forward(tokens, **options)
        gain = self.embedding.weight[tokens[:, -1:]].sum(-1, keepdim=True) if self.training else 0
        return ModelOutput(output.logits + gain)


def test_a_model_that_peeks_is_told_where():
    said = first_leak(Peeking())
    assert said == "in training, scores at position 0 depend on token 15"


class Deaf(RunningMean):
    """Reads nothing."""

    def forward(self, tokens, **options):
        return super().forward(torch.zeros_like(tokens), **options)


def test_a_model_that_hears_nothing_does_not_pass():
    assert first_leak(Deaf()) == "in evaluation, no score depends on token 1"
