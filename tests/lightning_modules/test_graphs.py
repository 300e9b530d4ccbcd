"""Recorded work does what it does step by step. On a GPU only."""

import copy

import pytest
import torch

from callbacks.dead_codes import Revival
from crystalline.models.crystalline import Crystalline, Selection, Sites
from lightning_modules.graphs import WARMUP_CALLS, Recording

pytestmark = pytest.mark.gpu


def test_a_recording_reads_its_inputs_and_what_changes_in_place():
    factor = torch.ones((), device="cuda")
    double = Recording(lambda x: x * factor)
    for call in range(WARMUP_CALLS + 3):
        factor.fill_(call)
        assert double(torch.full((3,), 2.0, device="cuda")).tolist() == [2.0 * call] * 3
        assert double.replayed == (call >= WARMUP_CALLS)
    assert double(torch.ones(4, device="cuda")).tolist() == [float(call)] * 4  # of another shape


def test_recorded_revivals_move_the_same_codes_to_the_same_places():
    torch.manual_seed(0)
    model = Crystalline(
        vocab_size=11, context_length=8, d_model=8, num_layers=2, num_heads=2, codebook_size=16,
        num_codes_k=1, sites=Sites(), selection=Selection(), mode="codebook_features",
    ).cuda()  # fmt: skip
    other = copy.deepcopy(model)
    plain, recorded = (
        Revival(m, idle_positions=5, max_fraction=0.25, recorded=flag)
        for m, flag in ((model, False), (other, True))
    )
    for seed in range(WARMUP_CALLS + 4):
        tokens = torch.randint(model.vocab_size, (3, 8), device="cuda")
        for each in (model, other):
            generator = torch.Generator("cuda").manual_seed(seed)
            for book in each.codebooks().values():
                book.idle.random_(10, generator=generator)
        moved = [revival(tokens, seed) for revival in (plain, recorded)]
        for site, flags in moved[0].items():
            assert flags.any()
            assert torch.equal(flags, moved[1][site])
            assert torch.equal(model.codebooks()[site].codes, other.codebooks()[site].codes)
