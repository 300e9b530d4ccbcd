import math

import numpy as np
import pytest
import torch

from crystalline.interpret.word_programs import horizons, program_row
from crystalline.models.vocab_space.readable import Mixture
from tests.crystalline.interpret.word_models import routed


def row(shares, classes=((0, 1),), names=("a", "b")):
    mixture = Mixture(names, torch.tensor([shares], dtype=torch.float32))
    return program_row("ops", [mixture], [np.array(classes)], ("word", "digit", "space"))


def test_one_way_each_is_sure_and_selective():
    found = row([[1.0, 0.0], [0.0, 1.0]])
    assert (found["sureness"], found["selectivity"]) == pytest.approx((1, 1))
    assert found["usage"] == {"a": 0.5, "b": 0.5}
    assert found["by_class"] == {"word": {"a": 1.0, "b": 0.0}, "digit": {"a": 0.0, "b": 1.0}}


def test_the_same_mixture_everywhere_is_not_selective():
    found = row([[0.5, 0.5], [0.5, 0.5]])
    assert (found["sureness"], found["selectivity"]) == pytest.approx((0, 0))
    found = row([[0.9, 0.1], [0.9, 0.1]])
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert found["sureness"] == pytest.approx(1 - entropy / math.log(2))
    assert found["selectivity"] == pytest.approx(0, abs=1e-6)


def test_horizons_are_those_of_the_decays():
    model = routed()
    found = horizons(model)
    logits = model.steps[1].parts[0].block.decay_logit
    expected = (1 / (1 - logits.sigmoid())).tolist()
    assert found["steps.1.parts.0.block.memory"] == pytest.approx(expected, rel=1e-4)
    assert len(found) == 2
