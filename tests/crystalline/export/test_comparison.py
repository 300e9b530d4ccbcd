"""Loss, agreement and divergence by hand, over batches of any size."""

import pytest
import torch
import torch.nn.functional as F

from crystalline.export import comparison
from crystalline.export.comparison import compare
from tests.tiny_models import Plain


@pytest.fixture
def batches():
    tokens = torch.randint(0, 30, (5, 9), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1).clone()
    targets[:, -1] = -100
    return [(tokens[:3], targets[:3]), (tokens[3:], targets[3:])]


def test_a_model_agrees_with_itself(batches):
    model = Plain(30).eval()
    found = compare(model, {"same": model}, batches)["same"]
    assert found["agreement"] == 1.0
    assert found["kl"] == pytest.approx(0.0, abs=1e-7)
    assert found["targets"] == 5 * 8


@pytest.mark.parametrize("at_once", [1, 2**24])
def test_figures_by_hand(batches, at_once, monkeypatch):
    monkeypatch.setattr(comparison, "_LOGITS", at_once)
    exact, other = Plain(30).eval(), Plain(30, seed=1).eval()
    found = compare(exact, {"other": other}, batches)["other"]
    tokens, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    scored = targets != -100
    with torch.no_grad():
        p, q = (m(tokens).logits[scored].log_softmax(-1) for m in (exact, other))
    assert found["loss"] == pytest.approx(float(F.nll_loss(q, targets[scored])))
    assert found["kl"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-5)
    assert found["agreement"] == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).float().mean()))
