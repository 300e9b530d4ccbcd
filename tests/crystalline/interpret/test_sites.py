import pytest
import torch

from crystalline.contract import Codes
from crystalline.interpret.sites import find_sites, layer_of, site_positions
from tests.model_zoo import build


def test_the_layer_of_a_site_is_the_first_number_of_its_name():
    assert layer_of("layers.3.mlp.group.0") == 3
    assert layer_of("stages.0.blocks.2.quantizer") == 0
    assert layer_of("layers.12") == 12
    assert layer_of("mlp2.quantizer") is None


def test_padding_covers_no_token_wherever_it_stands():
    mask = torch.tensor([[False, True, True, False]])
    ends = torch.tensor([[9, 3, 6, 9]])
    codes = Codes(torch.zeros(1, 4, 1, dtype=torch.int64), 2, mask=mask, ends=ends)
    tokens = torch.tensor([0, 3, 4, 6, 7, 9])
    assert site_positions(codes, tokens).tolist() == [[1, 1, 2, 2, -1, -1]]


@pytest.mark.usefixtures("unchecked")
def test_positions_of_segments_vary_and_those_of_pyramids_do_not():
    assert all(site.varies for site in find_sites(build("abstractinator_1")).values())
    pyramid = find_sites(build("ziggurat_2")).values()
    assert not any(site.varies for site in pyramid)
    assert max(site.span for site in pyramid) > 1
