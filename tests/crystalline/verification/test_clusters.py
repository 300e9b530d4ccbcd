import pytest
import torch

from crystalline.quantizers.bottlenecks import CrystallineBottleneck, Temperature
from crystalline.verification.clusters import CODES, WIDTH, learn_clusters


def build():
    temperature = Temperature(1, WIDTH, init=0.05, minimum=0.005)
    return CrystallineBottleneck(WIDTH, CODES, 1), temperature


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_the_bottleneck_finds_the_clusters():
    found = learn_clusters(build, rounds=1000, seed=0)
    assert found.active_codes >= 8
    assert found.ami >= 0.95


def test_the_random_state_stays_and_does_not_matter():
    before = torch.random.get_rng_state()
    first = learn_clusters(build, rounds=3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(9)
    assert learn_clusters(build, rounds=3, seed=1) == first
