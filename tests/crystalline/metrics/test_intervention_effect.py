import math

import pytest
import torch

from crystalline.interpret.effects import jsd
from crystalline.metrics.intervention_effect import InterventionEffect


def drawn(seed: int) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 5, generator=random) for _ in range(3)]


def test_the_effect_is_one_at_the_target_and_zero_where_nothing_moved():
    _, clean, target = drawn(0)
    for patched, wanted in ((target, 1), (clean, 0)):
        metric = InterventionEffect()
        metric.update(patched, clean, target)
        assert float(metric.compute()) == wanted


def test_batches_add_up_to_the_ratio_of_sums():
    metric, sums = InterventionEffect(), torch.zeros(2, dtype=torch.float64)
    for seed in (1, 2):
        patched, clean, target = drawn(seed)
        metric.update(patched, clean, target)
        sums += torch.stack([jsd(patched, target).sum(), jsd(clean, target).sum()]).double()
    assert float(metric.compute()) == pytest.approx(float(1 - sums[0] / sums[1]), abs=1e-6)


def test_rows_that_were_right_already_count_for_nothing():
    patched, clean, _ = drawn(3)
    metric = InterventionEffect()
    metric.update(patched, clean, clean)
    assert math.isnan(float(metric.compute()))
