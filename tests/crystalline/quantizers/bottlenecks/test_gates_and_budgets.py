"""Where codes stand in for vectors is learned (gates); how many a position has, too (budgets)."""

import pytest
import torch

from crystalline.quantizers.bottlenecks import CodebookFeatures, CrystallineBottleneck, Temperature
from crystalline.quantizers.bottlenecks.base import unit_rms
from crystalline.quantizers.bottlenecks.budget import BatchBudget
from crystalline.quantizers.bottlenecks.grouped import GroupedBottleneck, Trace, mean_losses

D, K, GROUPS, B, S = 6, 16, 2, 3, 5
GAIN = 0.5
NO_SKIP = torch.tensor(False)


def grouped(gated: bool = True, **options) -> GroupedBottleneck:
    torch.manual_seed(0)
    return GroupedBottleneck(
        GROUPS * D, GROUPS, lambda width: CrystallineBottleneck(width, K, 2, **options),
        Temperature, GAIN, gated,
    )  # fmt: skip


def through(site: GroupedBottleneck, x: torch.Tensor, **edits):
    """What is written, and the trace."""
    torch.manual_seed(1)
    trace = Trace({f"mlp.group.{g}": edit for g, edit in edits.items()}, entropy=False)
    return site(x, trace, "mlp", torch.arange(x.shape[1])), trace


def wide() -> torch.Tensor:
    return torch.randn(B, S, GROUPS * D, generator=torch.Generator().manual_seed(2))


def narrow(batch: int = B) -> torch.Tensor:
    return torch.randn(batch, S, D, generator=torch.Generator().manual_seed(2))


def tau(value: float = 0.3) -> torch.Tensor:
    return torch.full((1, 1), value)


def fill(site: GroupedBottleneck, value: float) -> None:
    assert site.gate is not None
    torch.nn.init.constant_(site.gate, value)


# Gates


@pytest.mark.parametrize("training", [True, False])
def test_an_open_gate_is_no_gate(training):
    plain, gated = grouped(gated=False).train(training), grouped().train(training)
    fill(gated, 50.0)
    assert torch.equal(through(gated, wide())[0], through(plain, wide())[0])
    fill(gated, 0.0)
    assert not torch.allclose(through(gated, wide())[0], through(plain, wide())[0], atol=1e-3)


def test_a_closed_gate_hands_on_the_normalised_input():
    gated = grouped()
    fill(gated, -200.0)
    expected = GAIN * unit_rms(wide().unflatten(-1, (GROUPS, D))).flatten(-2)
    torch.testing.assert_close(through(gated, wide())[0], expected)


@pytest.mark.parametrize("estimator", ["hybrid", "input_ste", "gumbel_ste"])
def test_a_gate_starts_at_nine_tenths_and_has_the_predictions_gradient(estimator):
    gated = grouped(estimator=estimator)
    written, trace = through(gated, wide())
    codes = torch.stack(
        [part.hard(trace.codes[f"mlp.group.{g}"].indices) for g, part in enumerate(gated.group)],
        -2,
    )
    n = unit_rms(wide().unflatten(-1, (GROUPS, D)))
    torch.testing.assert_close(written, GAIN * (0.9 * codes + 0.1 * n).flatten(-2))
    upstream = torch.randn_like(written)
    (found,) = torch.autograd.grad(written, gated.gate, upstream)
    by_hand = GAIN * (upstream.unflatten(-1, (GROUPS, D)) * (codes - n)).sum((0, 1, 3)) * 0.9 * 0.1
    torch.testing.assert_close(found, by_hand)
    assert by_hand.abs().min() > 0


def test_the_loss_of_gates_is_what_passes_beside_codes_and_opens_them():
    gated = grouped()
    fill(gated, 0.0)
    with torch.no_grad():
        gated.gate[1] = 200.0
    loss = mean_losses(through(gated, wide())[1].losses)["gate"]
    assert loss.item() == pytest.approx(0.25)
    loss.backward()
    assert gated.gate.grad[0] < 0  # descending opens it
    assert "gate" not in mean_losses(through(gated.eval(), wide())[1].losses)
    assert "gate" not in mean_losses(through(grouped(gated=False), wide())[1].losses)


def test_an_edit_moves_the_discrete_part_alone():
    gated = grouped().eval()
    plain, before = through(gated, wide())
    edited, after = through(gated, wide(), **{"0": lambda c: torch.full_like(c.indices, 3)})
    book = gated.group[0]
    old = book.hard(before.codes["mlp.group.0"].indices)
    new = book.hard(after.codes["mlp.group.0"].indices)
    torch.testing.assert_close(edited[..., :D] - plain[..., :D], GAIN * 0.9 * (new - old))
    assert torch.equal(edited[..., D:], plain[..., D:])


# Fading in


def test_codes_fade_in_during_training_alone():
    site = GroupedBottleneck(
        GROUPS * D, GROUPS, lambda width: CodebookFeatures(width, K, 2), Temperature, GAIN,
        warmup=0.4,
    )  # fmt: skip
    with torch.no_grad():
        codes = through(site.eval(), wide())[0]
    n = torch.stack(
        [part.project(wide()[..., g * D : (g + 1) * D]) for g, part in enumerate(site.group)], -2
    )
    plain = GAIN * n.detach().flatten(-2)
    site.train()
    for progress, share in ((0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)):
        site.begin_round(progress)
        written = through(site, wide())[0]
        torch.testing.assert_close(written, torch.lerp(plain, codes, share))
    site.begin_round(0.1)
    with torch.no_grad():
        assert torch.equal(through(site.eval(), wide())[0], codes)


def test_a_share_outside_of_training_is_no_warmup():
    with pytest.raises(ValueError, match=r"sites.warmup must lie in \[0, 1\], got 1.5"):
        GroupedBottleneck(
            D, 1, lambda width: CodebookFeatures(width, K, 2), Temperature, GAIN, warmup=1.5
        )


# Budgets


def crystalline(k: int = 3, **options) -> CrystallineBottleneck:
    torch.manual_seed(0)
    return CrystallineBottleneck(D, K, k, budget="batch", **options)


def features(k: int = 3, **options) -> CodebookFeatures:
    torch.manual_seed(0)
    return CodebookFeatures(D, K, k, budget="batch", **options)


BOOKS = pytest.mark.parametrize("make", [crystalline, features])


def numbers(indices: torch.Tensor) -> torch.Tensor:
    """How many different codes each position has."""
    return torch.tensor([[len(set(p)) for p in row] for row in indices.tolist()])


def in_use(make, rounds: int = 3):
    """A bottleneck that has seen some rounds, in evaluation."""
    book = make()
    for _ in range(rounds):
        book(narrow(40), tau())
        book.end_round(NO_SKIP)
    return book.eval()


def test_a_batch_shares_its_codes_as_a_greedy_hand_would():
    scores = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
    scores = scores.sort(dim=-1, descending=True).values
    scores[0] += 10  # wants all its slots
    scores[1] -= 10  # has its best one nevertheless
    used = BatchBudget(3, K).shared_out(scores)
    cells = sorted((float(scores[i, j]), i, j) for i in range(7) for j in range(1, 6))[-14:]
    expected = torch.zeros(7, 6, dtype=torch.bool)
    expected[:, 0] = True
    for _, i, j in cells:
        expected[i, j] = True
    assert torch.equal(used, expected)
    assert used[0].sum() == 6
    assert used[1].sum() == 1


@BOOKS
@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_training_uses_k_codes_a_position_on_average(make, aggregate):
    book = make(aggregate=aggregate)
    out = book(narrow(), tau())
    indices, weights = out.codes.indices, out.codes.weights
    assert indices.shape == (B, S, 6)
    used = (weights > 0).sum(-1)
    assert used.sum() == 3 * B * S
    assert 1 <= used.min() < used.max() <= 6
    assert torch.equal(numbers(indices), used)  # what is not used repeats what is
    assert book.round_counts.sum() == 3 * B * S  # and is not counted
    expected = torch.stack(
        [book.codes[0][sorted(set(p))].sum(0) for p in indices.flatten(0, 1).tolist()]
    )
    if aggregate == "mean":
        expected = expected / used.view(-1, 1)
    torch.testing.assert_close(out.quantized.flatten(0, 1), expected, atol=1e-5, rtol=1e-5)


def test_without_noise_the_batch_takes_the_most_similar_codes():
    book = features()
    chosen = book(narrow(), tau()).codes
    scores = book.similarities(book.project(narrow()).flatten(0, 1))
    taken = torch.zeros_like(scores, dtype=torch.bool)
    taken.scatter_(1, chosen.indices.flatten(0, 1), True)
    full = taken.sum(-1) == 6
    assert scores[~taken & ~full[:, None]].max() < book_cut(scores, 3)
    best = torch.zeros_like(taken).scatter_(1, scores.argmax(-1, keepdim=True), True)
    assert scores[taken & ~best].min() == book_cut(scores, 3)


def book_cut(scores: torch.Tensor, k: int) -> torch.Tensor:
    """The lowest score that passes when N positions share k * N, by sorting."""
    others = scores.sort(dim=-1, descending=True).values[:, 1 : 2 * k].flatten()
    return others.sort(descending=True).values[(k - 1) * len(scores) - 1]


@BOOKS
def test_the_threshold_is_the_running_mean_of_the_noiseless_cut(make):
    book = make()
    budget = book.budget
    assert budget.threshold.isinf()
    cuts = []
    for size in (40, 7):
        scores = book.similarities(book.project(narrow(size)).flatten(0, 1))
        scores = scores / (0.3 if make is crystalline else 1.0)
        cuts.append(book_cut(scores, 3))
        book(narrow(size), tau())
        book.end_round(NO_SKIP)
    torch.testing.assert_close(budget.threshold, 0.99 * cuts[0] + 0.01 * cuts[1])
    before = budget.threshold.clone()
    book(narrow(3), tau())
    book.end_round(torch.tensor(True))  # a round that is to be forgotten
    book.end_round(NO_SKIP)  # a round without a pass
    assert torch.equal(budget.threshold, before)
    assert "budget.threshold" in book.state_dict()


@BOOKS
def test_evaluation_uses_about_k_codes_and_asks_no_other_position(make):
    book = in_use(make)
    many = torch.randn(400, S, D, generator=torch.Generator().manual_seed(9))
    used = (book(many, tau()).codes.weights > 0).sum(-1)
    assert used.float().mean().item() == pytest.approx(3, abs=0.3)
    assert used.min() == 1
    assert used.max() == 6
    together = book(many[:6], tau())
    for row in range(6):
        for pos in range(S):
            alone = book(many[row : row + 1, pos : pos + 1], tau())
            assert torch.equal(alone.codes.indices[0, 0], together.codes.indices[row, pos])


@BOOKS
def test_before_the_first_round_every_position_has_its_best_code(make):
    assert (numbers(make().eval()(narrow(), tau()).codes.indices) == 1).all()


@BOOKS
def test_a_copied_choice_brings_its_own_number_of_codes(make):
    book = in_use(make)
    x = narrow(40)
    plain = book(x, tau())
    used = (plain.codes.weights > 0).sum(-1)
    assert (used != used.flip(0)).any()
    copied = book(x, tau(), override=lambda choice: plain.codes.indices.flip(0))
    torch.testing.assert_close(copied.quantized, plain.quantized.flip(0), atol=1e-6, rtol=1e-5)
    assert torch.equal(book(x, tau(), override=lambda c: c.indices).quantized, plain.quantized)


@BOOKS
def test_without_a_code_a_position_chooses_as_if_the_book_had_none(make):
    book = in_use(make)
    x = narrow(40)
    victim = int(book(x, tau()).codes.indices[0, 0, 0])
    banned = torch.zeros(1, K, dtype=torch.bool)
    banned[0, victim] = True
    found = book(x, tau(), override=lambda c: c.without(banned)).codes.indices
    with torch.no_grad():
        book.codes[0, victim] = -book.codes[0, victim]  # now the least similar one
    kept = (book(x, tau()).codes.indices != victim).all(-1)
    assert not (found == victim).any()
    assert torch.equal(found[kept], book(x, tau()).codes.indices[kept])
    assert kept[0, 0]


def test_wrong_budgets_are_named():
    with pytest.raises(ValueError, match="budget must be position or batch"):
        CrystallineBottleneck(D, K, 2, budget="token")
    with pytest.raises(ValueError, match="num_codes_k must lie in"):
        crystalline(k=1)
    with pytest.raises(ValueError, match="num_codes_k must lie in"):
        features(k=9)
    with pytest.raises(ValueError, match="soft"):
        crystalline(estimator="soft")
