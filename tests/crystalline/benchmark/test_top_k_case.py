import pytest
import torch

from crystalline.benchmark.top_k import TopKCase

CPU = torch.device("cpu")
SIZES = {"points": 30, "d_group": 5, "codebook_size": 9, "num_codes_k": 3, "groups": 2}


def test_all_choose_what_the_reference_chooses():
    case = TopKCase(**SIZES, devices=["cpu"])
    reference = case.reference(CPU)
    assert reference.shape == (2, 30, 3)
    contestants = case.contestants(CPU)
    assert case.baseline in contestants
    for name, call in contestants.items():
        assert torch.equal(call(), reference), name


def test_more_codes_than_there_are_cannot_be_chosen():
    with pytest.raises(ValueError, match="num_codes_k"):
        TopKCase(**SIZES | {"num_codes_k": 10}, devices=["cpu"])
