"""Entropies of assignments by hand, and where there are none."""

import math

import pytest
import torch

from crystalline.contract import Codes
from crystalline.metrics.assignment import assignment_entropy
from tests import model_zoo
from tests.tiny_models import RunningMean


class Sure(RunningMean):
    """Tells the entropy of one site: the number of the position."""

    def _codes(self, tokens, x, edits):
        found = super()._codes(tokens, x, edits)
        indices = found["top"].indices
        entropy = torch.arange(tokens.shape[1]).float().expand(tokens.shape)
        return {"top": Codes(indices, 6, shared=True, entropy=entropy), "choice": found["choice"]}


TOKENS = torch.arange(20).view(2, 10)
TARGETS = TOKENS.roll(-1, 1)


def test_the_mean_is_over_scored_positions_of_all_batches():
    targets = TARGETS.clone()
    targets[:, 4:] = -100  # positions 0 to 3
    found = assignment_entropy(Sure(), [(TOKENS, targets), (TOKENS[:1], TARGETS[:1])])
    mean = (2 * 6 + 45) / (2 * 4 + 10)
    assert found == pytest.approx({"assignment/entropy": mean, "assignment/entropy/top": mean})


@pytest.mark.parametrize("model", [RunningMean(), model_zoo.build("transformer")])
def test_models_that_tell_no_entropy_have_none(model):
    few = TOKENS % model.vocab_size
    assert assignment_entropy(model, [(few, few)]) == {}


def test_every_bottleneck_has_its_entropy_and_its_floor_and_they_have_means():
    for name, highest in (
        ("crystalline", 16),
        ("crystalline_source", 16),
        ("codebook_features", 16),
    ):
        model = model_zoo.build(name)
        found = assignment_entropy(model, [(TOKENS, TARGETS)])
        sites = list(model.codebooks())
        for kind in ("entropy", "noise_floor"):
            values = [found[f"assignment/{kind}/{site}"] for site in sites]
            assert found[f"assignment/{kind}"] == pytest.approx(sum(values) / len(sites))
            assert all(0 < value <= math.log(highest) + 1e-5 for value in values)
        assert len(found) == 2 * (len(sites) + 1)
        assert model.training


def test_the_floor_of_the_seed_is_that_of_its_temperature():
    model = model_zoo.build("crystalline_source")
    floor = {}
    for value in (0.3, 2.0):
        for part in model._bottlenecks().values():
            torch.nn.init.constant_(part.temperature.raw, value)
        floor[value] = assignment_entropy(model, [(TOKENS, TARGETS)])["assignment/noise_floor"]
    assert floor[0.3] < floor[2.0]
