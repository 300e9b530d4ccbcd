"""Tokens to bits and back, by the chances of any model."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crystalline.compression.coder import decode, encode
from crystalline.errors import UserError
from tests.model_zoo import CONTEXT, VOCAB, build
from tests.tiny_models import RunningMean

FAMILIES = ("transformer", "ziggurat_3", "crystal", "abstractinator_2")


def text(length: int, vocab: int = VOCAB) -> list[int]:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(0, vocab, (length,), generator=generator).tolist()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_longer_than_the_context_costs_its_cross_entropy(name):
    model, tokens = build(name).eval(), text(CONTEXT + 3)
    encoded = encode(model, tokens, first=3)
    assert decode(model, encoded.payload, len(tokens), first=3) == tokens
    nats = 0.0
    for start in range(0, len(tokens), CONTEXT - 1):  # windows begin with the last token before
        window = torch.tensor([3, *tokens])[None, start : start + CONTEXT]
        with torch.no_grad():
            nats += float(model(window[:, :-1]).cross_entropy(window[:, 1:]).nats.double().sum())
    bits = nats / math.log(2)
    assert set(encoded.bits) == {"token"}
    assert encoded.bits["token"] == pytest.approx(bits, rel=1e-5)
    assert abs(8 * len(encoded.payload) - bits) <= 0.001 * bits + 64


@pytest.mark.usefixtures("unchecked")
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=40))
def test_any_bytes_come_back(content):
    model = RunningMean().eval()
    encoded = encode(model, list(content), first=256)
    assert bytes(decode(model, encoded.payload, len(content), first=256)) == content
    assert 8 * len(encoded.payload) <= 1.001 * sum(encoded.bits.values()) + 64
    assert bool(encoded.payload) == bool(content)


def test_a_token_that_was_thought_impossible_still_comes_back():

    model = RunningMean().eval()
    plain = model.step

    def certain(tokens, cache):
        scores = plain(tokens, cache)
        return torch.full_like(scores, -torch.inf).index_fill(-1, torch.tensor([65]), 0.0)

    model.step = certain
    tokens = [65, 66, 65, 67]
    encoded = encode(model, tokens, first=256)
    assert decode(model, encoded.payload, 4, first=256) == tokens
    assert encoded.bits["token"] == math.inf
    assert len(encoded.payload) <= 2 * 3 + 8  # 24 bits each


def test_a_model_in_training_mode_is_read_in_evaluation_and_stays_in_training():
    model = RunningMean().train()  # with a dropout of one half
    tokens = text(20, 257)
    encoded = encode(model, tokens, first=256)
    assert model.training
    assert decode(model.eval(), encoded.payload, 20, first=256) == tokens


def test_what_cannot_be_coded_is_one_line(monkeypatch):
    model = RunningMean().eval()
    encoded = encode(model, [1, 2, 3], first=256)
    other = RunningMean(seed=1).eval()
    assert decode(other, encoded.payload, 3, first=256) != [1, 2, 3]
    torch.nn.init.constant_(model.embedding.weight, math.nan)
    with pytest.raises(UserError, match="its scores of this text are no numbers"):
        encode(model, [1, 2, 3], first=256)
    monkeypatch.setattr("crystalline.compression.coder.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'crystalline-lm\[compress\]'"):
        encode(other, [1], first=256)
