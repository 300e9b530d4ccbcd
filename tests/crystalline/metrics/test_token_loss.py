import math

import pytest
import torch
import torch.nn.functional as F

from crystalline.layers.cross_entropy import cross_entropy
from crystalline.metrics.token_loss import SplitScore, TokenLoss, bits_per_byte


def score(metric, logits, targets):
    metric.update(cross_entropy(logits, targets), targets)


def test_the_mean_is_over_all_targets_however_they_are_batched():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 3, 7), torch.randint(7, (5, 3))
    metric = TokenLoss()
    for part in ([0], [1, 2, 3], [4]):
        score(metric, logits[part], targets[part])
    found = metric.compute()
    expected = -logits.double().log_softmax(-1).gather(2, targets[..., None]).mean()
    assert found.nats == pytest.approx(float(expected), rel=1e-6)
    assert found.targets == 15
    assert found.accuracy == pytest.approx(float((logits.argmax(-1) == targets).float().mean()))


def test_padding_is_neither_scored_nor_counted():
    logits, targets = torch.randn(2, 4, 7), torch.randint(7, (2, 4))
    padded = targets.clone()
    padded[1, 1:] = -100
    metric = TokenLoss()
    score(metric, logits, padded)
    score(metric, torch.randn(1, 4, 7), torch.full((1, 4), -100))
    found = metric.compute()
    real = torch.cat([logits[0], logits[1, :1]]), torch.cat([targets[0], targets[1, :1]])
    assert found.nats == pytest.approx(float(F.cross_entropy(*real)), rel=1e-6)
    assert found.targets == 5


def test_a_reset_metric_starts_anew_and_an_empty_one_is_nan():
    metric = TokenLoss()
    score(metric, torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64))
    assert metric.compute().nats == pytest.approx(math.log(4))
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert math.isnan(metric.compute().nats)


def test_low_precision_logits_are_scored_in_fp32():
    logits, targets = torch.randn(4, 8, 50).bfloat16(), torch.randint(50, (4, 8))
    metric = TokenLoss()
    score(metric, logits, targets)
    exact = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
    assert metric.compute().nats == pytest.approx(float(exact), rel=1e-6)


def test_bits_per_byte_by_hand():
    # A uniform choice of 256 tokens of two bytes each: 8 bits for two bytes.
    assert bits_per_byte(math.log(256), 2.0) == pytest.approx(4.0)
    assert bits_per_byte(1.0, None) is None


def test_figures_of_a_split():
    figures = SplitScore(math.log(256), 0.25, 10).figures(20)
    expected = {"loss": math.log(256), "bpb": 4.0, "perplexity": 256.0, "accuracy": 0.25}
    assert figures == pytest.approx(expected)
    assert SplitScore(1.0, 0.0, 1).figures(None)["bpb"] is None
