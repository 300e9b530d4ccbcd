import math

import pytest
import torch

from crystalline.metrics.codebook_usage import usage, usage_by_site

EVEN = torch.tensor([[5, 5, 5, 5]])
HALF = torch.tensor([[8, 8, 0, 0]])
LEVELS = torch.cat([EVEN, HALF])


def test_figures_of_an_even_and_of_a_half_used_book():
    assert usage(EVEN) == pytest.approx(
        {
            "usage": 1.0,
            "dead_fraction": 0.0,
            "max_dead_fraction": 0.0,
            "perplexity": 4.0,
            "entropy": math.log(4),
        }
    )
    assert usage(HALF) == pytest.approx(
        {
            "usage": 0.5,
            "dead_fraction": 0.5,
            "max_dead_fraction": 0.5,
            "perplexity": 2.0,
            "entropy": math.log(2),
        }
    )


def test_levels_are_averaged_and_the_worst_one_is_told():
    figures = usage(LEVELS)
    assert figures["usage"] == pytest.approx(0.75)
    assert figures["perplexity"] == pytest.approx(3.0)
    assert figures["max_dead_fraction"] == pytest.approx(0.5)


def test_sites_have_figures_of_their_own_and_a_mean():
    figures = usage_by_site({"a.b": EVEN, "c": HALF})
    assert figures["codebook/usage"] == pytest.approx(0.75)
    assert figures["codebook/usage/a.b"] == 1.0
    assert figures["codebook/perplexity/c"] == pytest.approx(2.0)
    assert figures["codebook/max_dead_fraction"] == pytest.approx(0.5)
    assert usage_by_site({}) == {}


def test_a_book_without_choices_is_refused():
    with pytest.raises(ValueError, match="at least one choice"):
        usage(torch.tensor([[1, 0], [0, 0]]))
