import math

import numpy as np
import pytest
import torch

from crystalline.interpret.sites import Code, find_sites
from crystalline.interpret.steering import (
    Mentions,
    continuations,
    control_codes,
    count_mentions,
    distinct_2,
    perplexity,
)
from tests.model_zoo import VOCAB, build
from tests.tiny_models import Plain

OPTIONS = {"seed": 3, "stop_id": 0, "max_new_tokens": 12}


def test_whole_words_are_counted_once_a_text_in_either_case():
    texts = ["A Dragon, a dragon!", "dragonfly", "no such", "the king's crown", ""]
    assert count_mentions(texts, ["dragon", "king"]) == Mentions(2, 5)
    assert count_mentions(["a.b", "axb"], ["a.b"]) == Mentions(1, 2)


def test_wilsons_interval_is_that_of_the_books():
    low, high = Mentions(40, 100).interval
    assert (low, high) == pytest.approx((0.3094, 0.4980), abs=1e-4)
    assert Mentions(0, 40).interval == pytest.approx((0, 0.0876), abs=1e-4)
    assert Mentions(40, 40).interval[1] == 1


def test_log_odds_by_hand_and_finite_at_the_ends():
    found = Mentions(30, 40).log_odds_ratio(Mentions(10, 40))
    assert found == pytest.approx(2 * math.log(30.5 / 10.5))
    assert math.isfinite(Mentions(40, 40).log_odds_ratio(Mentions(0, 40)))
    assert Mentions(7, 9).log_odds_ratio(Mentions(7, 9)) == 0


@pytest.mark.usefixtures("unchecked")
def test_continuations_end_at_the_stop_token_and_repeat_with_the_seed():
    model = build("ziggurat_2")
    prompts = [[0, 4, 5], [0]]
    sites = find_sites(model)
    [first] = continuations(model, prompts, sites, [()], num_samples=5, batch_size=2, **OPTIONS)
    assert len(first) == 10
    assert all(0 not in line and len(line) <= 12 for line in first)
    assert {len(line) for line in first} != {12}
    codes = [Code(name, level, 1) for name in sites for level in (0, 1)]
    again, held, once_more = continuations(
        model, prompts, sites, [(), codes, ()], num_samples=5, batch_size=6, **OPTIONS
    )
    assert first == again == once_more
    [alone] = continuations(model, prompts, sites, [codes], num_samples=5, batch_size=2, **OPTIONS)
    assert held == alone != first
    assert model.training


def test_control_codes_are_others_of_the_same_book_used_as_often():
    counts = torch.zeros(2, 40, dtype=torch.int64)
    counts[1, 5:18] = 100 + torch.arange(13)
    codes = [Code("a", 1, 5), Code("a", 1, 6)]
    for seed in range(20):
        found = control_codes({"a": counts}, codes, np.random.default_rng(seed))
        assert len({*found, *codes}) == 4
        assert all(code.site == "a" and code.level == 1 for code in found)
        assert all(7 <= code.code < 18 for code in found)  # the ten nearest, no unused one
    with pytest.raises(ValueError, match="no code left"):
        control_codes({"a": counts[:, :1]}, [Code("a", 0, 0)], np.random.default_rng(0))


def test_perplexity_is_that_of_every_token_once():
    model = Plain(vocab_size=VOCAB, context_length=6).eval()
    short, long = [3, 4, 5], list(range(1, 15))
    with torch.no_grad():
        scores = model(torch.tensor([[0, 3, 4]])).logits.log_softmax(-1)[0]
    wanted = math.exp(-float(scores[range(3), short].mean()))
    assert perplexity(model, [short], start=0) == pytest.approx(wanted, rel=1e-5)
    assert perplexity(model, [short, []], start=0) == pytest.approx(wanted, rel=1e-5)
    assert perplexity(model, [long], start=0) > 1
    assert math.isnan(perplexity(model, [[]], start=0))


def test_distinct_pairs_of_words():
    assert distinct_2(["a b a b", "b a"]) == pytest.approx(2 / 4)
    assert math.isnan(distinct_2(["one", ""]))
