"""The checks pass on what is right and see what is wrong."""

import pytest
import torch
from hydra.utils import instantiate

from crystalline.quantizers.bottlenecks import assignment
from crystalline.quantizers.bottlenecks.base import Bottleneck
from crystalline.verification.gradients import verify, worst
from tests.composing import composed

TINY = ("model=crystalline", "model.d_model=16", "model.num_layers=1", "model.num_heads=2",
        "model.codebook_size=12", "model.num_codes_k=2")  # fmt: skip


def checked(*more):
    torch.manual_seed(0)
    model = instantiate(composed(*TINY, *more).model, vocab_size=11, _convert_="all")
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens = torch.randint(0, 11, (2, 30), generator=torch.Generator().manual_seed(1))
    found = verify(model, [tokens], points=4, directions=2, seed=0)
    assert all(torch.equal(before[n], tensor) for n, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    return found


@pytest.mark.parametrize("budget", ["position", "batch"])
def test_the_bottleneck_has_the_gradients_that_it_claims(budget):
    found = checked(f"model.selection.budget={budget}")
    assert set(found) == {"layers.0.attn_pre.group.0", "layers.0.attn_pre.group.1",
                          "layers.0.mlp.group.0"}  # fmt: skip
    figures = worst(found.values())
    for name in ("logits_error", "temperature_error", "codes_error", "entropy_slope_error"):
        assert figures[name] < 1e-4
    assert figures["least_entropy_slope"] >= 0
    assert figures["identity_error"] == figures["others"] == 0
    assert figures["chosen_error"] < 1e-5
    assert figures["least_chosen"] > 0


def test_bottlenecks_without_a_temperature_are_asked_for_their_choice_alone():
    figures = worst(checked("model.mode=codebook_features").values())
    assert set(figures) == {"identity_error", "chosen_error", "least_chosen", "others"}
    assert figures["identity_error"] == figures["others"] == 0
    assert checked("model.mode=source") == {}


def test_a_wrong_gradient_by_hand_is_seen(monkeypatch):
    right = assignment.ChunkedAssignment.backward

    def wrong(ctx, *upstream):
        gradients = list(right(ctx, *upstream))
        return tuple(g * 1.01 if isinstance(g, torch.Tensor) else g for g in gradients)

    monkeypatch.setattr(assignment.ChunkedAssignment, "backward", staticmethod(wrong))
    figures = worst(checked().values())
    for name in ("logits_error", "temperature_error", "codes_error", "entropy_slope_error"):
        assert figures[name] > 1e-3


def test_a_gradient_that_leaks_to_other_codes_is_seen(monkeypatch):
    right = Bottleneck.hard

    def leaking(self, indices, weights=None):
        return right(self, indices, weights) + 1e-3 * self.codes.sum()

    monkeypatch.setattr(Bottleneck, "hard", leaking)
    figures = worst(checked().values())
    assert figures["others"] > 0
    assert figures["chosen_error"] > 1e-5


def test_the_worst_of_what_is_least_is_the_smallest():
    assert worst([{"a": 1.0, "least_b": 2.0}, {"a": 3.0}, {"least_b": -1.0}]) == {
        "a": 3.0,
        "least_b": -1.0,
    }
