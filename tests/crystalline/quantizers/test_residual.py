import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalline.quantizers.residual import ResidualQuantizer
from crystalline.quantizers.search import _MAX_SCORES, nearest
from crystalline.quantizers.vector import VectorQuantizer

NO_SKIP = torch.tensor(False)


def make(**options) -> ResidualQuantizer:
    torch.manual_seed(0)
    return ResidualQuantizer(6, **{"codebook_size": 5, "num_codebooks": 3, **options})


def test_output_is_the_sum_of_the_codes_it_names():
    book = make()
    out = book(torch.randn(2, 4, 6))
    codes = [book.codes[level][out.indices[..., level]] for level in range(3)]
    assert out.indices.shape == (2, 4, 3)
    torch.testing.assert_close(out.quantized, sum(codes))


def test_straight_through_has_the_jacobian_of_the_identity():
    book = make().double()
    x = torch.randn(1, 2, 6, dtype=torch.float64)

    def quantize(x):
        return book(x).quantized

    jacobian = torch.autograd.functional.jacobian(quantize, x).reshape(12, 12)
    torch.testing.assert_close(jacobian, torch.eye(12, dtype=torch.float64), atol=1e-6, rtol=0)


def test_estimator_none_passes_no_gradient():
    x = torch.randn(1, 2, 6, requires_grad=True)
    assert not make(estimator="none")(x).quantized.requires_grad


def test_rotation_keeps_the_value_and_turns_the_gradient():
    book = make(estimator="rotation")
    x = torch.randn(2, 3, 6, requires_grad=True)
    out = book(x).quantized
    torch.testing.assert_close(out, make()(x).quantized)
    upstream = out.detach()  # along q: must come back along x, scaled by |q| / |x|
    (gradient,) = torch.autograd.grad(out, x, upstream)
    scale = out.norm(dim=-1) ** 2 / x.norm(dim=-1) ** 2
    torch.testing.assert_close(gradient, (scale[..., None] * x).detach(), atol=1e-5, rtol=1e-4)


def test_codes_learn_from_the_codebook_loss_alone():
    book = make()
    out = book(torch.randn(2, 4, 6, requires_grad=True))
    assert torch.autograd.grad(
        out.quantized.sum() + out.losses["commitment"],
        book.codes,
        allow_unused=True,
        retain_graph=True,
    ) == (None,)
    (gradient,) = torch.autograd.grad(out.losses["codebook"], book.codes)
    assert gradient.abs().sum() > 0


def test_codebook_loss_moves_each_level_towards_its_own_residual():
    book = make()
    x = torch.randn(2, 4, 6)
    out = book(x)
    (gradient,) = torch.autograd.grad(out.losses["codebook"], book.codes)
    expected = torch.zeros_like(gradient)
    residual = x
    for level in range(3):
        codes = book.codes[level][out.indices[..., level]].detach()
        pull = 2 * (codes - residual) / (3 * x.numel())
        expected[level].index_add_(0, out.indices[..., level].flatten(), pull.flatten(0, 1))
        residual = residual - codes
    torch.testing.assert_close(gradient, expected)


def test_input_is_the_codes_plus_what_the_last_level_leaves():  # T5
    book = make()
    x = torch.randn(2, 4, 6)
    *_, (_, last) = book.residuals(x)
    chosen = book.codes[2][book.select(2, last)]
    rest = (last - chosen).view_as(x)
    torch.testing.assert_close(book(x).quantized + rest, x, rtol=1e-6, atol=1e-6)


def test_one_level_started_by_kmeans_with_enough_codes_has_no_error():  # T4
    torch.manual_seed(1)
    x = torch.randn(4, 6)[torch.randint(4, (3, 20))]
    book = VectorQuantizer(6, codebook_size=8)
    book.init_from_data(x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(book(x).quantized, x, atol=1e-5, rtol=0)


def test_kmeans_start_explains_more_with_every_level():
    torch.manual_seed(2)
    x = torch.randn(1, 400, 6)
    book = make()
    book.init_from_data(x, torch.Generator().manual_seed(0))
    left = [points.square().mean() for _, points in book.residuals(x)]
    assert left[0] > left[1] > left[2]


def test_moving_average_without_memory_is_the_mean_of_the_round():  # T6
    book = make(update="ema", ema_decay=0.0, num_codebooks=1)
    x = torch.randn(3, 7, 6)
    indices = book(x).indices.flatten()
    book.end_round(NO_SKIP)
    for code in indices.unique():
        mean = x.flatten(0, 1)[indices == code].mean(0)
        torch.testing.assert_close(book.codes[0, code], mean, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_accumulated_micro_batches_count_like_one_batch(update):
    x = torch.randn(4, 7, 6)
    whole, parts = make(update=update), make(update=update)
    whole(x)
    for part in x.chunk(2):
        parts(part)
    for book in (whole, parts):
        book.end_round(NO_SKIP)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value)


def test_a_skipped_round_leaves_no_trace():
    book = make(update="ema")
    before = {name: value.clone() for name, value in book.state_dict().items()}
    book(torch.full((1, 3, 6), float("nan")))
    book.end_round(torch.tensor(True))
    book.eval()
    for name, value in book.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert not book.round_counts.any()


def test_frozen_codes_belong_to_no_optimizer():
    assert list(make(update="frozen").code_parameters()) == []
    assert len(list(make().code_parameters())) == 1


def test_revival_moves_a_far_code_in_one_step_and_leaves_live_ones():  # T7
    book = make(num_codebooks=1)
    x = torch.randn(8, 16, 6)
    book.init_from_data(x, torch.Generator().manual_seed(0))
    with torch.no_grad():
        book.codes[0, 3] = 1e4
    book(x)
    book.end_round(NO_SKIP)
    before = book.codes.detach().clone()
    moved = book.relocate_codes(x, idle_positions=100, max_fraction=0.5)
    assert moved.nonzero().tolist() == [[0, 3]]
    live = torch.arange(5) != 3
    torch.testing.assert_close(book.codes[0, live], before[0, live], rtol=0, atol=0)
    assert (book.codes[0, 3] == x.flatten(0, 1)).all(-1).any()
    assert 3 in book(x).indices


def test_revival_respects_its_limit():
    book = make(codebook_size=40, num_codebooks=1)
    book.idle.fill_(10)
    moved = book.relocate_codes(torch.randn(1, 50, 6), idle_positions=5, max_fraction=0.1)
    assert moved.sum() == 4


def test_dead_codes_are_told_for_every_level():
    book = make()
    book.idle[1, 4] = 10
    assert book.has_dead_codes(10).tolist() == [False, True, False]
    assert book.has_dead_codes(11).tolist() == [False] * 3
    book.idle[0] = 12
    assert book.has_dead_codes(11).tolist() == [True, False, False]


def test_revival_leaves_books_without_dead_codes_alone():
    book = make()
    before = book.codes.detach().clone()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 20, 6)
    options = {"idle_positions": 5, "max_fraction": 1.0, "generator": generator}
    book.idle.fill_(4)
    assert not book.relocate_codes(x, **options).any()
    assert torch.equal(book.codes, before)
    book.idle[1, 2] = 5
    assert book.relocate_codes(x, **options).nonzero().tolist() == [[1, 2]]
    changed = (book.codes != before).any(-1)
    assert changed.nonzero().tolist() == [[1, 2]]
    assert book.idle.sum() == 4 * 14


def test_no_book_revives_more_than_its_share_and_the_longest_idle_go_first():
    book = make(codebook_size=20)
    book.idle.copy_(torch.stack([torch.arange(20), torch.arange(20).flip(0), torch.arange(20)]))
    x = torch.randn(2, 20, 6)
    first = book.relocate_codes(x, idle_positions=10, max_fraction=0.25)
    assert [row.nonzero().flatten().tolist() for row in first] == [
        [15, 16, 17, 18, 19],
        [0, 1, 2, 3, 4],
        [15, 16, 17, 18, 19],
    ]
    second = book.relocate_codes(x, idle_positions=10, max_fraction=0.25)
    assert second[0].nonzero().flatten().tolist() == [10, 11, 12, 13, 14]
    assert not book.relocate_codes(x, idle_positions=10, max_fraction=0.25).any()


def test_revival_draws_inputs_in_proportion_to_their_squared_error():
    book = make(codebook_size=6, num_codebooks=1)
    served = torch.nn.functional.normalize(torch.randn(1, 1000, 6), dim=-1)  # error: the length
    served[:, 100:] *= 0.1
    badly = 0
    for seed in range(100):
        book.codes.data.fill_(100.0)
        book.codes.data[0, 0] = 0
        book.idle[0, 1:] = 10
        generator = torch.Generator().manual_seed(seed)
        moved = book.relocate_codes(
            served, idle_positions=10, max_fraction=1.0, generator=generator
        )
        assert moved.sum() == 5
        badly += int((book.codes[0, 1:].norm(dim=-1) > 0.5).sum())
    # 100 inputs of error 1 against 900 of error 0.01: 92 %; drawn evenly it were 10 %.
    assert badly / 500 == pytest.approx(100 / 109, abs=0.04)


def test_level_dropout_uses_a_prefix_of_the_levels():
    book = make(level_dropout=1.0)
    x = torch.randn(64, 1, 6)
    out = book(x)
    codes = torch.stack([book.codes[i][out.indices[..., i]] for i in range(3)], -2)
    prefixes = codes.cumsum(-2)
    matches = torch.isclose(prefixes, out.quantized[..., None, :], atol=1e-5).all(-1)
    assert matches.any(-1).all()
    assert matches[..., 0].any()
    assert matches[..., 2].any()
    book.eval()
    torch.testing.assert_close(book(x).quantized, codes.sum(-2))


def test_override_acts_between_choice_and_lookup():
    book = make()
    seen = []

    def edit(choice):
        seen.append(choice.positions)
        return torch.full_like(choice.indices, 2)

    out = book(torch.randn(1, 4, 6), override=edit, positions=torch.arange(5, 9))
    assert (out.indices == 2).all()
    torch.testing.assert_close(out.quantized, book.codes[:, 2].sum(0).expand(1, 4, 6))
    assert seen[0].tolist() == [5, 6, 7, 8]


def test_autocast_leaves_the_choice_of_equal_inputs_unchanged():  # T15
    book = ResidualQuantizer(32, codebook_size=64, num_codebooks=4).eval()
    x = torch.randn(4, 256, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = book(x).indices
    agreement = (low == book(x).indices).float().mean()
    assert agreement >= 0.999


def test_cosine_similarity_ignores_lengths():
    codes = torch.tensor([[10.0, 0.0], [0.0, 0.1]])
    points = torch.tensor([[1.0, 2.0]])
    assert nearest(points, codes, cosine=True).item() == 1
    assert nearest(points, torch.tensor([[1.0, 1.0], [0.0, 9.0]])).item() == 0


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 40), k=st.integers(1, 12), d=st.integers(1, 5), seed=st.integers(0, 99))
def test_search_finds_a_code_as_near_as_any(n, k, d, seed):
    generator = torch.Generator().manual_seed(seed)
    points, codes = torch.randn(n, d, generator=generator), torch.randn(k, d, generator=generator)
    distances = torch.cdist(points, codes)
    chosen = distances.gather(1, nearest(points, codes)[:, None]).flatten()
    torch.testing.assert_close(chosen, distances.min(1).values, atol=1e-3, rtol=1e-3)


def test_rows_in_chunks_give_the_same_indices(monkeypatch):
    points, codes = torch.randn(50, 3), torch.randn(7, 3)
    whole = nearest(points, codes)
    monkeypatch.setitem(_MAX_SCORES, "cpu", 30)
    assert torch.equal(nearest(points, codes), whole)


@pytest.mark.parametrize(
    ("option", "value"),
    [("estimator", "magic"), ("similarity", "taxi"), ("update", "never"), ("level_dropout", 2.0),
     ("codebook_size", 0), ("ema_decay", 1.0)],
)  # fmt: skip
def test_a_wrong_option_is_named(option, value):
    extra = {"update": "ema"} if option == "ema_decay" else {}
    with pytest.raises(ValueError, match=option):
        make(**{option: value, **extra})


def test_gradients_agree_with_finite_differences_where_the_map_is_smooth():
    book = make().double()
    with torch.no_grad():
        indices = book(torch.zeros(1, 2, 6, dtype=torch.float64)).indices

    def commitment(x):  # choices held, so that the loss is smooth in x
        return book(x, override=lambda choice: indices).losses["commitment"]

    x = torch.randn(1, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(commitment, (x,))


def test_warm_up_leads_from_the_input_to_the_codes_and_evaluation_always_rounds():
    book, plain = make(warmup=0.5), make()
    x = torch.randn(2, 4, 6)
    codes = plain(x).quantized
    book.begin_round(0.0)
    start = book(x)
    torch.testing.assert_close(start.quantized, x)
    assert start.losses["commitment"] == 0
    book.begin_round(0.25)
    torch.testing.assert_close(book(x).quantized, (x + codes) / 2)
    book.begin_round(0.6)
    torch.testing.assert_close(book(x).quantized, codes)
    book.begin_round(0.0)
    torch.testing.assert_close(book.eval()(x).quantized, codes)


@pytest.mark.parametrize("similarity", ["euclidean", "cosine"])
def test_a_choice_without_some_codes_is_that_of_smaller_books(similarity):
    book = ResidualQuantizer(6, codebook_size=5, num_codebooks=2, similarity=similarity).eval()
    x = torch.randn(2, 7, 6)
    banned = torch.zeros(2, 5, dtype=torch.bool)
    banned[0, 1] = banned[1, 3] = True

    def edit(choice):
        assert torch.equal(choice.without(torch.zeros_like(banned)), choice.indices)
        return choice.without(banned)

    chosen = book(x, override=edit).indices
    assert not (chosen[..., 0] == 1).any()
    smaller = ResidualQuantizer(6, codebook_size=4, num_codebooks=2, similarity=similarity).eval()
    smaller.codes.data[0] = book.codes[0, [0, 2, 3, 4]]
    smaller.codes.data[1] = book.codes[1, [0, 1, 2, 4]]
    names = torch.tensor([[0, 2, 3, 4], [0, 1, 2, 4]])
    expected = torch.stack([names[level][smaller(x).indices[..., level]] for level in (0, 1)], -1)
    assert torch.equal(chosen, expected)
