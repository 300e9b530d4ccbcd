"""The operators of top-k coding against the definition, on a CPU and (marked gpu) in Triton."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from crystalline.quantizers.kernels import top_k as kernels
from crystalline.quantizers.top_k import code_plainly, top_k_coding

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# groups, queries, codes, width, k: ragged against every tile size
SHAPES = [(1, 37, 7, 5, 3), (2, 130, 129, 24, 4), (3, 5, 1, 3, 1), (1, 70, 1100, 96, 16)]
OPTIONS = [("dot", "sum"), ("cosine", "mean"), ("cosine", "softmax"), ("euclidean", "softmax")]


def example(shape, device="cpu", dtype=torch.float32):
    groups, n, size, width, _ = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def leaf(*axes):
        values = torch.randn(*axes, generator=generator, dtype=torch.float64)
        return values.to(device, dtype).requires_grad_()

    scale = leaf(groups, n).detach().exp().requires_grad_()
    return leaf(groups, n, width), leaf(groups, size, width), scale


def of_both(shape, device, **options):
    queries, codes, scale = example(shape, device)
    assert kernels.applies(queries, codes, shape[-1])
    leaves = queries, codes, scale
    both = [
        code(queries, codes, shape[-1], scale=scale, **options)
        for code in (top_k_coding, code_plainly)
    ]
    return leaves, both


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("similarity", "aggregate"), OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_fast_path_equals_the_definition(shape, similarity, aggregate, device):
    options = {"similarity": similarity, "aggregate": aggregate, "assignment": True}
    _, (fast, plain) = of_both(shape, device, **options)
    assert torch.equal(fast.indices, plain.indices)
    assert torch.equal(fast.counts, plain.counts)
    for name in ("logits", "weights", "quantized"):
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name), atol=1e-4, rtol=1e-4)
    rounding = 1e-4 if device == "cpu" else 2e-2  # fp16 on a GPU, and logits of up to 100
    for name in ("log_normaliser", "entropy"):
        found, expected = getattr(fast, name), getattr(plain, name)
        torch.testing.assert_close(found, expected, atol=rounding, rtol=rounding)
        assert not found.requires_grad


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("similarity", "aggregate"), OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_those_of_the_definition(shape, similarity, aggregate, device):
    leaves, both = of_both(shape, device, similarity=similarity, aggregate=aggregate)
    generator = torch.Generator().manual_seed(0)
    to_logits = torch.randn(both[0].logits.shape, generator=generator).to(device)
    to_quantized = torch.randn(both[0].quantized.shape, generator=generator).to(device)
    for fast, plain in zip(
        *(
            torch.autograd.grad([c.logits, c.quantized], leaves, [to_logits, to_quantized])
            for c in both
        ),
        strict=True,
    ):
        torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("similarity", "aggregate"), OPTIONS)
def test_gradients_of_the_definition_are_those_of_finite_differences(similarity, aggregate):
    def coded(queries, codes, scale):
        options = {"similarity": similarity, "aggregate": aggregate}
        coding = code_plainly(queries, codes, 2, scale=scale, **options)
        return coding.logits, coding.quantized

    assert gradcheck(coded, example((2, 3, 5, 4, 2), dtype=torch.float64))


def test_the_three_operators_are_each_other_s_derivatives():
    points, codes, _ = example((2, 3, 5, 4, 2), dtype=torch.float64)
    indices = torch.tensor([[[0, 3], [3, 1], [4, 0]], [[2, 3], [2, 0], [1, 4]]])
    weights = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    for operator, inputs in (
        (lambda x, c: kernels.dots(x, c, indices), (points, codes)),
        (lambda w, c: kernels.mix(w, c, indices), (weights, codes)),
        (lambda w, x: kernels.member_sums(w, x, indices, 5), (weights, points)),
    ):
        assert gradcheck(operator, inputs)
        assert gradgradcheck(operator, inputs)


def test_the_operators_are_what_they_tell_torch_compile():
    points, codes, scale = (leaf.detach() for leaf in example((2, 3, 5, 4, 2)))
    indices, weights = torch.randint(5, (2, 3, 2)), torch.randn(2, 3, 2)
    torch.library.opcheck(kernels.select, (points, codes, codes[..., 0], scale, 2, True))
    points, weights = points.requires_grad_(), weights.requires_grad_()
    torch.library.opcheck(kernels.dots, (points, codes, indices))
    torch.library.opcheck(kernels.mix, (weights, codes, indices))
    torch.library.opcheck(kernels.member_sums, (weights, points, indices, 5))


@pytest.mark.parametrize("device", DEVICES)
def test_straight_through_is_the_identity_to_queries_and_leaves_other_codes_alone(device):
    queries, codes, _ = example((2, 6, 50, 5, 3), device)
    coding = top_k_coding(queries, codes, 3)
    gradient = torch.randn(queries.shape, generator=torch.Generator().manual_seed(0)).to(device)
    out = coding.quantized + (queries - queries.detach())
    to_queries, to_codes = torch.autograd.grad(out, (queries, codes), gradient)
    assert torch.equal(to_queries, gradient)
    assert torch.equal((to_codes != 0).any(-1), coding.counts > 0)


@pytest.mark.parametrize("device", DEVICES)
def test_repeated_calls_and_their_gradients_are_bit_equal(device):
    leaves = example((1, 300, 40, 96, 4), device)

    def results():
        options = {"scale": leaves[2], "similarity": "euclidean", "aggregate": "softmax"}
        coding = top_k_coding(*leaves[:2], 4, assignment=True, **options)
        loss = coding.quantized.square().sum() + coding.logits.sum()
        return *coding, *torch.autograd.grad(loss, leaves)

    first = results()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, results(), strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_of_equal_codes_the_first_are_chosen(device):
    queries = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0)).to(device)
    queries[0, :10] = 0  # as like one code as another
    codes = torch.eye(8, device=device).repeat(30, 1)[None]
    fast, plain = (code(queries, codes, 12) for code in (top_k_coding, code_plainly))
    assert fast.indices[0, 0].tolist() == list(range(12))
    assert torch.equal(fast.indices, plain.indices)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, most) for most in (3, 9, 12, 4))),
    similarity=st.sampled_from(["dot", "euclidean"]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_whole_numbers_tie_often_and_are_chosen_as_the_definition_says(
    shape, similarity, seed, data
):
    groups, n, size, width = shape
    k = data.draw(st.integers(1, size))
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-1, 2, (groups, n, width), generator=generator).float()
    codes = torch.randint(-1, 2, (groups, size, width), generator=generator).float()
    fast, plain = (
        code(queries, codes, k, similarity=similarity) for code in (top_k_coding, code_plainly)
    )
    assert torch.equal(fast.indices, plain.indices)
    assert fast.counts.sum() == groups * n * k


def test_the_size_of_chunks_leaves_results_as_they_are(monkeypatch):
    queries, codes, scale = example(SHAPES[1])
    whole = top_k_coding(queries, codes, 4, scale=scale, assignment=True)
    monkeypatch.setattr(kernels, "_CHUNK", 3 * codes.shape[1])
    parts = top_k_coding(queries, codes, 4, scale=scale, assignment=True)
    assert torch.equal(whole.indices, parts.indices)
    torch.testing.assert_close(whole.logits, parts.logits)
    torch.testing.assert_close(whole.entropy, parts.entropy)


def test_scales_broadcast_and_only_sharpen():
    queries, codes, scale = example(SHAPES[1])
    plain = top_k_coding(queries, codes, 4)
    for sharpness in (scale[0, 0], scale[:, :1], scale):
        coding = top_k_coding(queries, codes, 4, scale=sharpness)
        assert torch.equal(coding.indices, plain.indices)
        expected = sharpness.broadcast_to(scale.shape)[..., None] * plain.logits
        torch.testing.assert_close(coding.logits, expected)


def test_other_dtypes_take_the_definition():
    queries, codes, _ = example(SHAPES[0], dtype=torch.float64)
    assert not kernels.applies(queries, codes, 3)
    assert top_k_coding(queries, codes, 3).quantized.dtype == torch.float64


@pytest.mark.parametrize("k", [0, 8])
def test_more_codes_than_there_are_or_none_are_refused(k):
    queries, codes, _ = example(SHAPES[0])
    with pytest.raises(ValueError, match=rf"k must lie in \[1, 7\].* got {k}"):
        top_k_coding(queries, codes, k)


@pytest.mark.gpu
@pytest.mark.parametrize("k", [1, 16])
def test_large_books_agree_with_fp32_and_need_no_matrix(k):
    generator = torch.Generator("cuda").manual_seed(0)
    queries = torch.randn(1, 65_536, 128, device="cuda", generator=generator)
    codes = torch.randn(1, 10_000, 128, device="cuda", generator=generator)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fast = top_k_coding(queries, codes, k, assignment=True)
    assert torch.cuda.max_memory_allocated() - before < 65_536 * 10_000 * 4 / 10
    part = slice(0, 4096)
    plain = code_plainly(queries[:, part], codes, k)
    same = fast.indices[:, part].sort(-1).values == plain.indices.sort(-1).values
    assert same.all(-1).float().mean() >= 0.9999
