"""Codes that make a model expect a topic."""

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from crystalline.errors import UserError
from crystalline.interpret.effects import kl
from crystalline.interpret.interventions import clamp
from crystalline.interpret.reading import Reading
from crystalline.interpret.sites import find_sites
from crystalline.interpret.topic_effects import moving_codes, own_tokens
from crystalline.tokenizer import ByteTokenizer
from tests.composing import composed

TOKENIZER = ByteTokenizer()
WANTED, PLANTED = 65, 7


def reading(*texts):
    lines = [TOKENIZER.encode(text) for text in texts]
    starts = [position == 0 for line in lines for position in range(len(line))]
    return Reading(np.concatenate(lines), np.array(starts), {})


def test_own_tokens_begin_mentions_and_little_else():
    text = reading("a king, a kin", "Kings sit", "the king")
    assert own_tokens(text, TOKENIZER, ["king"]).tolist() == TOKENIZER.encode("k")
    with pytest.raises(UserError, match="no token stands for it"):
        own_tokens(text, TOKENIZER, ["it"])
    with pytest.raises(UserError, match="no token stands for it"):
        own_tokens(text, TOKENIZER, ["queen"])


@pytest.fixture
def model():
    """One of whose codes says nothing but WANTED."""
    torch.manual_seed(0)
    small = ("d_model=16", "num_layers=1", "num_heads=2", "codebook_size=12", "num_codes_k=2",
             "sites.places=[mlp,block]", "context_length=8")  # fmt: skip
    config = composed("model=crystalline", *(f"model.{setting}" for setting in small)).model
    made = instantiate(config, vocab_size=TOKENIZER.vocab_size, _convert_="all")
    block = made.layers[0].block
    with torch.no_grad():
        block.gain.fill_(1.0)
        block.group[0].codes[0, PLANTED] = 4 * torch.nn.functional.normalize(
            made.embedding.weight[WANTED], dim=0
        )
    return made


def find(model, **options):
    counts = {site: torch.full((1, 12), 100) for site in model.codebooks()}
    given = {"candidates": 6, "num_codes": 4, "codes_per_book": 2, "max_cost": 100.0, **options}
    tokens = torch.randint(200, (3, 8), generator=torch.Generator().manual_seed(1))
    return moving_codes(model, tokens, torch.tensor([WANTED]), counts, **given)


def test_the_code_that_says_it_is_found(model):
    found = find(model)
    best = max(found, key=lambda each: each.gain)
    assert (best.code.site, best.code.code) == ("layers.0.block.group.0", PLANTED)
    assert all(each.gain > 0 and each.cost > 0 for each in found)
    rank = [each.gain / each.cost**0.5 for each in found]
    assert rank == sorted(rank, reverse=True)
    books = [each.code.site for each in found]
    assert max(map(books.count, books)) <= 2


def test_gain_is_of_expected_mentions(model):
    best = max(find(model), key=lambda each: each.gain)
    held = clamp(find_sites(model), [best.code])
    tokens = torch.randint(200, (3, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = (
            model.eval()(tokens, edits=edits).logits.softmax(-1)[..., WANTED].mean()
            for edits in ({}, held)
        )
    assert best.gain == pytest.approx(float((after / before).log()), rel=1e-4)


def test_limits_hold(model):
    assert find(model, max_cost=0.0) == []
    assert len(find(model, num_codes=1)) == 1
    books = [each.code.site for each in find(model, codes_per_book=1)]
    assert len(books) == len(set(books))


def test_as_many_are_kept_as_may_be_held(model):
    every = find(model, candidates=12, num_codes=8)
    assert len(every) > 1
    costs = []
    for count in range(1, len(every) + 1):
        sites = find_sites(model)
        held = clamp(sites, [each.code for each in every[:count]])
        tokens = torch.randint(200, (3, 8), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            before, after = model.eval()(tokens).logits, model(tokens, edits=held).logits
        costs.append(float(kl(before, after).mean()))
    limit = sorted(costs)[len(costs) // 2] * 1.001
    kept = find(model, candidates=12, num_codes=8, max_cost=limit)
    assert len(kept) == max(n for n, cost in enumerate(costs, 1) if cost <= limit)


def test_rare_codes_are_no_candidates(model):
    counts = {site: torch.full((1, 12), 100) for site in model.codebooks()}
    counts["layers.0.block.group.0"][0, PLANTED] = 1
    tokens = torch.randint(200, (3, 8), generator=torch.Generator().manual_seed(1))
    found = moving_codes(
        model, tokens, torch.tensor([WANTED]), counts,
        candidates=12, num_codes=4, codes_per_book=2, max_cost=100.0,
    )  # fmt: skip
    assert all(each.code[0::2] != ("layers.0.block.group.0", PLANTED) for each in found)
