"""Codes move from where they share the work to where there is none."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalline.quantizers.bottlenecks import CodebookFeatures
from crystalline.quantizers.bottlenecks.prior import Prior
from crystalline.quantizers.relocation import costs, fit, gains
from crystalline.quantizers.residual import ResidualQuantizer

ALIVE = {"idle_positions": 10**9, "max_fraction": 0.25}


def clusters(points: int = 4096) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of 20 far clusters, half of them of the first one; and the clusters' centres."""
    random = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 8, generator=random) * 3
    weights = torch.ones(20)
    weights[0] = 20
    drawn = torch.multinomial(weights, points, replacement=True, generator=random)
    return centres[drawn] + 0.1 * torch.randn(points, 8, generator=random), centres


def crowded(centres: torch.Tensor) -> ResidualQuantizer:
    """24 codes: one on each of ten clusters, fourteen more on the first."""
    book = ResidualQuantizer(8, 24, 1)
    random = torch.Generator().manual_seed(1)
    codes = centres[0] + 0.1 * torch.randn(24, 8, generator=random)
    codes[:10] = centres[:10]
    book.codes.data[0] = codes
    return book


def test_codes_that_share_a_cluster_move_to_those_without_one():
    points, centres = clusters()
    book = crowded(centres)
    random = torch.Generator().manual_seed(2)
    for _ in range(8):
        book.relocate_codes(points[None], margin=2.0, generator=random, **ALIVE)
    nearest = torch.cdist(book.codes[0].detach(), centres).min(1)
    assert nearest.values.max() < 1
    assert set(nearest.indices.tolist()) == set(range(20))


def test_living_codes_stay_without_a_margin_and_where_nothing_is_gained():
    points, centres = clusters()
    book = crowded(centres)
    before = book.codes.detach().clone()
    assert not book.relocate_codes(points[None], **ALIVE).any()
    assert torch.equal(book.codes, before)
    book.codes.data[0, :20] = centres
    moved = book.relocate_codes(points[None], margin=2.0, **ALIVE)
    assert not moved[0, :20].any()


def test_dead_codes_go_first_with_a_margin_too():
    points, centres = clusters()
    book = crowded(centres)
    book.idle[0, 3] = 100
    moved = book.relocate_codes(points[None], idle_positions=50, max_fraction=0.01, margin=2.0)
    assert moved.nonzero().tolist() == [[0, 3]]


def test_the_power_of_the_error_says_whether_rare_or_busy_places_get_dead_codes():
    random = torch.Generator().manual_seed(3)
    busy = torch.randn(900, 8, generator=random)
    rare = torch.randn(100, 8, generator=random) + 100
    exact = torch.zeros(1000, 8)  # served without error: a code there would change nothing
    points = torch.cat([busy, rare, exact])[None]

    def found(power: float) -> list[int]:
        """Codes among points of each kind."""
        book = ResidualQuantizer(8, 200, 1)
        book.codes.data.zero_()
        book.idle[0, 1:] = 100
        book.relocate_codes(
            points, idle_positions=50, max_fraction=1.0, error_power=power, generator=random
        )
        moved = book.codes.detach()[0, 1:]
        far, still = moved.norm(dim=-1) > 50, ~moved.any(-1)
        return [int(n) for n in ((~far & ~still).sum(), far.sum(), still.sum())]

    busy_first, busy_then = found(0.0), found(1.0)
    assert busy_first[0] > 150  # nine in ten of what has an error
    assert busy_then[1] > 90  # nearly all rare points, 100 times as far
    assert busy_first[2] == busy_then[2] == 0


def test_a_move_lowers_the_error_where_it_was_reckoned():
    points, centres = clusters()
    book = crowded(centres)

    def error():
        return book.misfit(points, book.codes[0]).amin(1).mean()

    before = error()
    book.relocate_codes(points[None], margin=1.0, **ALIVE)
    assert error() < 0.8 * before


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 9), st.integers(1, 30))
def test_costs_and_gains_are_differences_of_the_least_error(seed, size, count):
    random = torch.Generator().manual_seed(seed)
    points, codes = (torch.rand(n, 3, generator=random) for n in (count, size))
    errors = torch.cdist(points, codes).square()
    movable = torch.rand(size, generator=random) < 0.5
    movable[0] = False
    served = fit(lambda part: torch.cdist(part, codes).square(), points, size, movable)
    torch.testing.assert_close(served.error, errors.amin(1))
    cost = costs(served, movable)
    rest = errors[:, ~movable].amin(1)
    for code in range(size):
        own = served.chosen == code
        by_hand = (rest - errors.amin(1))[own].sum() if movable[code] else float("inf")
        assert float(cost[code]) == pytest.approx(float(by_hand), abs=1e-5)
    rows = torch.arange(min(count, 4))
    new = torch.cdist(points, points[rows]).square()
    found = gains(served, points, rows, lambda part: torch.cdist(part, points[rows]).square(), size)
    alone = (errors.amin(1)[:, None] - new).clamp(min=0).sum(0) - errors.amin(1)[rows]
    for row in rows.tolist():
        same = served.chosen[rows] == served.chosen[row]
        best = alone[row] >= alone[same].max() - 1e-6
        assert float(found[row]) == pytest.approx(float(alone[row]) if best else 0.0, abs=1e-5)


def test_a_prior_counts_against_rare_codes_there_too():
    torch.manual_seed(0)
    book = CodebookFeatures(4, 6, 1, prior=Prior(0.1))
    x = torch.randn(1, 30, 4)
    errors = book._misfit_in(0, book.project(x)[0])
    assert torch.equal(errors.argmin(1), book.select(0, book.project(x)[0]))
