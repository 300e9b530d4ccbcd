"""Tests G1 to G10 and G12 of the spec, section 11, for the Crystalline bottleneck."""

import math
import os

import pytest
import torch
import torch.nn.functional as F

from crystalline.quantizers.bottlenecks import CrystallineBottleneck, Temperature, chunked
from crystalline.quantizers.bottlenecks import assignment as module
from crystalline.quantizers.bottlenecks.assignment import assign, assign_in_chunks

D, K = 6, 16


def make(**options) -> CrystallineBottleneck:
    torch.manual_seed(0)
    return CrystallineBottleneck(D, K, options.pop("k", 2), **options)


def tau(value: float) -> torch.Tensor:
    return torch.full((1, 1), value)


def inputs() -> torch.Tensor:
    return torch.randn(2, 5, D, generator=torch.Generator().manual_seed(1))


def test_the_soft_path_has_the_gradient_of_finite_differences():  # G1
    torch.manual_seed(0)
    points = F.normalize(torch.randn(4, 3, dtype=torch.float64), dim=-1).requires_grad_()
    codes = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    temperature = torch.full((4, 1), 0.5, dtype=torch.float64, requires_grad=True)

    def soft(points, codes, temperature):
        scores = points @ F.normalize(codes, dim=-1).mT / temperature
        found = assign(scores, scores, codes, 1)
        return found.surrogate, found.entropy, found.mean

    # The surrogate's gradient leaves the codes that it is summed from alone: hold those constant.
    fixed = codes.detach()
    torch.autograd.gradcheck(lambda p, t: soft(p, fixed, t), (points, temperature), atol=1e-4)
    torch.autograd.gradcheck(lambda c: soft(points.detach(), c, temperature)[1:], (codes,))


@pytest.mark.parametrize("limit", [1, 12, 10_000])
@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("biased", [False, True])
def test_chunks_equal_the_definition_gradients_included(
    monkeypatch, limit, noise, detached, k, biased
):
    monkeypatch.setattr(chunked, "_CPU_SCORES", limit)
    torch.manual_seed(0)
    seed = torch.tensor([5], dtype=torch.int32)
    monkeypatch.setattr(module, "draw_seed", lambda device: seed)
    points = F.normalize(torch.randn(7, 3, dtype=torch.float64), dim=-1).requires_grad_()
    codes = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    temperature = (torch.rand(7, 1, dtype=torch.float64) + 0.2).requires_grad_()
    unit = F.normalize(codes, dim=-1)
    bias = torch.randn(1, 5, dtype=torch.float64) if biased else None
    added = 0 if bias is None else bias
    scores = (points @ unit.mT + added) / temperature
    noisy = (points.detach() @ unit.mT + added) / temperature if detached else scores
    if noise:
        noisy = noisy + chunked.gumbel_noise(seed, 0, 7, 5)
    plain = assign(scores, noisy, codes, k)
    fast = assign_in_chunks(
        codes, unit, points, temperature, k, noise=noise, detached=detached, bias=bias
    )
    for a, b in zip(fast, plain, strict=True):
        torch.testing.assert_close(a, b)
    weights = [torch.randn_like(part) for part in plain[1:]]
    gradients = [
        torch.autograd.grad(
            sum((w * part).sum() for w, part in zip(weights, found[1:], strict=True)),
            (points, codes, temperature),
            retain_graph=True,
        )
        for found in (fast, plain)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("biased", [False, True])
def test_without_noise_a_kernel_may_choose_ahead(monkeypatch, biased):
    generator = torch.Generator().manual_seed(0)
    points = F.normalize(torch.randn(50, 6, generator=generator), dim=-1)
    unit = F.normalize(torch.randn(31, 6, generator=generator), dim=-1)
    bias = torch.randn(1, 31, generator=generator) if biased else None
    assert chunked.largest_ahead(points, unit, bias, 4) is None  # on a CPU that costs more
    monkeypatch.setattr(chunked, "runs_triton", lambda x: True)
    assert chunked.largest_ahead(points, unit, bias, 1) is None
    scores = points @ unit.mT + (0 if bias is None else bias)
    assert torch.equal(chunked.largest_ahead(points, unit, bias, 4), chunked.largest(scores, 4))
    tau, best = torch.full((1, 1), 0.3), chunked.largest(scores, 4)

    def assigned(noise):
        return assign_in_chunks(unit, unit, points, tau, 4, noise=noise, detached=True, bias=bias)

    assert not torch.equal(assigned(noise=True).indices, best)  # what noise has chosen
    monkeypatch.delattr(chunked, "largest")
    found = assigned(noise=False)
    assert torch.equal(found.indices, best)
    torch.testing.assert_close(found.scores, (scores / tau).gather(-1, best))


@pytest.mark.gpu
@pytest.mark.parametrize("biased", [False, True])
def test_a_gpu_chooses_ahead_as_it_would_from_scores(biased):
    points = F.normalize(torch.randn(5000, 32, device="cuda"), dim=-1)
    unit = F.normalize(torch.randn(2048, 32, device="cuda"), dim=-1)
    bias = torch.randn(1, 2048, device="cuda") / 10 if biased else None
    ahead = chunked.largest_ahead(points, unit, bias, 8)
    assert ahead is not None
    scores = points.double() @ unit.double().mT + (0 if bias is None else bias.double())
    best = scores.gather(-1, chunked.largest(scores, 8))
    torch.testing.assert_close(scores.gather(-1, ahead), best, atol=1e-6, rtol=0)


def test_noise_follows_its_law_and_differs_by_seed_row_and_column():
    seed = torch.tensor([3], dtype=torch.int32)
    noise = chunked.gumbel_noise(seed, 0, 2000, 50).double()
    assert torch.equal(chunked.gumbel_noise(seed, 700, 10, 50).double(), noise[700:710])
    ends = torch.tensor([0, 0x7FFFFF, -1], dtype=torch.int32)
    assert chunked._gumbel(ends).isfinite().all()
    below = [(noise < at).double().mean().item() for at in (-1.0, 0.0, 1.0, 3.0)]
    law = [math.exp(-math.exp(-at)) for at in (-1.0, 0.0, 1.0, 3.0)]
    assert below == pytest.approx(law, abs=0.005)
    others = [chunked.gumbel_noise(seed + 1, 0, 2000, 50), noise.roll(1, 0), noise.roll(1, 1)]
    for other in others:
        both = torch.stack([noise.flatten(), other.double().flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.015


def test_the_temperature_decides_how_often_the_best_code_is_chosen():  # G3
    book = make(k=1)
    x = inputs()[:1, :1]
    for value in (0.1, 0.5, 2.0):
        many = x.expand(1, 100_000, D)
        chosen = book(many, tau(value)).codes.indices.flatten()
        observed = torch.bincount(chosen, minlength=K).double()
        expected = (book.similarities(book.project(x)[0])[0] / value).softmax(-1).double() * 1e5
        seen = expected > 5  # where the test's approximation holds
        chi2 = ((observed - expected)[seen].square() / expected[seen]).sum()
        assert chi2 < 60, (value, chi2)  # 15 degrees of freedom: chance below 1e-6


def test_entropy_grows_with_the_temperature_by_the_variance():  # G4
    torch.manual_seed(0)
    logits = torch.randn(8, dtype=torch.float64)
    for value in (0.2, 1.0, 3.0):
        t = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        p = (logits / t).softmax(-1)
        entropy = -(p * p.log()).sum()
        (slope,) = torch.autograd.grad(entropy, t)
        variance = (p * logits.square()).sum() - (p * logits).sum().square()
        torch.testing.assert_close(slope, (variance / t**3).detach(), rtol=1e-6, atol=1e-9)
        assert slope >= 0


def compression(p: torch.Tensor, usage_weight: float) -> float:
    """The loss for given assignments (n, K)."""
    book = CrystallineBottleneck(D, p.shape[1], 1, usage_weight=usage_weight)
    found = assign(
        p.clamp(min=1e-30).log(), p.clamp(min=1e-30).log(), torch.zeros(p.shape[1], D), 1
    )
    zero = torch.zeros(1, len(p), D)
    return float(book._losses(zero, zero, found)["compression"])


def test_compression_wants_sure_choices_and_all_codes():  # G5
    one_hot, constant = torch.eye(4), torch.eye(4)[[0, 0, 0, 0]]
    uniform = torch.full((4, 4), 0.25)
    assert compression(one_hot, 1.0) == pytest.approx(-1, abs=1e-5)
    assert compression(uniform, 1.0) == pytest.approx(0, abs=1e-5)
    assert compression(constant, 1.0) == pytest.approx(0, abs=1e-5)
    assert compression(constant, 0.0) <= compression(one_hot, 0.0) + 1e-6
    assert compression(constant, 0.0) < compression(uniform, 0.0)


def test_the_usage_term_raises_rare_codes_and_stops_at_its_floor():  # G6
    logits = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.1, 0.0]], requires_grad=True)

    def loss(floor):
        book = CrystallineBottleneck(D, 3, 1, usage_weight=1.0, usage_floor=floor)
        found = assign(logits, logits, torch.zeros(3, D), 1)
        zero = torch.zeros(1, 2, D)
        return book._losses(zero, zero, found)["compression"] - found.entropy.mean() / math.log(3)

    (gradient,) = torch.autograd.grad(loss(1.0), logits)
    assert (gradient[:, 2] < 0).all()  # descending raises the rare code
    assert (gradient[:, 0] > 0).all()
    assert torch.autograd.grad(loss(0.1), logits)[0].abs().max() == 0


def test_input_ste_hands_the_gradient_on_and_gives_codes_theirs():  # G7
    book = make(estimator="input_ste", noise=False)
    x = inputs()
    n = book.project(x).detach().requires_grad_()
    book.project = lambda _: n
    out = book(x, tau(0.2))
    upstream = torch.randn_like(x)
    to_n, to_codes = torch.autograd.grad(
        out.quantized, (n, book.codes), upstream, retain_graph=True
    )
    torch.testing.assert_close(to_n, upstream)
    expected = torch.zeros_like(book.codes)
    expected[0].index_add_(
        0, out.codes.indices.flatten(), upstream.flatten(0, 1).repeat_interleave(2, 0) / 2
    )
    torch.testing.assert_close(to_codes, expected)
    unselected = torch.ones(K, dtype=torch.bool).index_fill(0, out.codes.indices.flatten(), False)
    assert unselected.any()
    (pull,) = torch.autograd.grad(out.losses["codebook"], book.codes)
    assert pull[0, unselected].abs().max() == 0
    error = 2 * (book.hard(out.codes.indices) - n).flatten(0, 1).repeat_interleave(2, 0) / 2 / 10
    by_hand = torch.zeros_like(book.codes)
    by_hand[0].index_add_(0, out.codes.indices.flatten(), error)
    torch.testing.assert_close(pull, by_hand, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("estimator", ["hybrid", "gumbel_ste", "soft"])
def test_these_estimators_have_a_path_to_the_temperature(estimator):
    book = make(estimator=estimator)
    temperature = tau(0.5).requires_grad_()
    torch.manual_seed(1)
    out = book(inputs(), temperature).quantized
    (slope,) = torch.autograd.grad(out.square().sum(), temperature)
    assert slope.abs().max() > 0


@pytest.mark.parametrize("estimator", ["hybrid", "gumbel_ste", "input_ste", "rotation"])
def test_the_value_is_the_mean_of_the_chosen_codes_whatever_the_gradient(estimator):
    book = make(estimator=estimator)
    out = book(inputs(), tau(0.3))
    expected = book.codes[0][out.codes.indices].mean(-2)
    torch.testing.assert_close(out.quantized, expected, atol=1e-5, rtol=1e-5)


def test_hybrid_moves_codes_that_were_not_chosen():
    book = make(estimator="hybrid", k=1)
    out = book(inputs()[:1, :1], tau(0.5))
    (gradient,) = torch.autograd.grad(out.quantized.sum(), book.codes)
    assert (gradient[0].abs().sum(-1) > 0).sum() > 1


def test_a_temperature_pushed_to_its_floor_comes_back():  # G8
    temperature = Temperature(1, D, init=0.2, minimum=0.02)
    part = torch.zeros(1, 1, 1, D)
    for sign, rounds in ((1, 40), (-1, 80)):  # down, then up
        optimizer = torch.optim.Adam(temperature.parameters(), lr=0.5)
        for _ in range(rounds):
            optimizer.zero_grad()
            (sign * temperature(part).sum()).backward()
            optimizer.step()
        if sign == 1:
            assert temperature(part).item() < 0.021
    assert temperature(part).item() > 0.2


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extremes_stay_finite(size, dtype):  # G9
    book = make(k=4)
    x = (inputs() * size).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = book(x, tau(0.02).requires_grad_())
        total = out.quantized.float().sum() + sum(out.losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(book.codes.grad).all()


def test_gradients_stay_finite_where_a_code_is_never_assigned():
    book = CrystallineBottleneck(D, 2, 1)
    x = torch.ones(2, 5, D, requires_grad=True)
    with torch.no_grad():
        book.codes[0, 0], book.codes[0, 1] = 1.0, -1.0
    temperature = tau(0.01).requires_grad_()
    similarities = book.similarities(book.project(x).flatten(0, 1))
    assert (similarities / temperature).softmax(-1).mean(0)[1] == 0  # e^-200 is 0 in fp32
    loss = book(x, temperature).losses["compression"]
    assert torch.isfinite(loss)
    for gradient in torch.autograd.grad(loss, (x, book.codes, temperature)):
        assert torch.isfinite(gradient).all()


def test_evaluation_has_no_noise_and_training_follows_its_seed():  # G10
    book = make()
    x = inputs()
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(book(x, tau(1.0)).codes.indices)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    book.eval()
    assert torch.equal(book(x, tau(1.0)).quantized, book(x, tau(0.1)).quantized)
    best = book.similarities(book.project(x).flatten(0, 1)).topk(2).indices.view(2, 5, 2)
    assert torch.equal(book(x, tau(1.0)).codes.indices, best)


def test_entropy_is_that_of_the_whole_assignment():
    book = make().eval()
    x = inputs()
    found = book(x, tau(0.4), entropy=True).codes.entropy
    p = (book.similarities(book.project(x).flatten(0, 1)) / 0.4).softmax(-1)
    torch.testing.assert_close(found.flatten(), torch.special.entr(p).sum(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scope", ["layer", "head", "position", "fixed", "annealed"])
def test_scopes_start_where_they_are_told(scope):
    temperature = Temperature(3, D, scope=scope, init=0.3, minimum=0.1)
    parts = torch.randn(2, 4, 3, D)
    torch.testing.assert_close(temperature(parts).expand(2, 4, 3), torch.full((2, 4, 3), 0.3))
    temperature.begin_round(0.5)
    assert temperature(parts).mean().item() == pytest.approx(0.2 if scope == "annealed" else 0.3)
    wide = {"layer": 1, "head": 3, "position": 3}
    assert sum(p.numel() for p in temperature.parameters() if p.shape != (3 * D,)) == wide.get(
        scope, 0
    )
    assert all(p.ndim == 1 for p in temperature.parameters())  # G11: nothing that would decay


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="num_codes_k"):
        make(k=K + 1)
    with pytest.raises(ValueError, match="estimator"):
        make(estimator="hard")
    with pytest.raises(ValueError, match="temp_scope"):
        Temperature(1, D, scope="token")
    with pytest.raises(ValueError, match="temp_min"):
        Temperature(1, D, init=0.1, minimum=0.2)


@pytest.mark.slow
@pytest.mark.skipif("JAXTYPING_DISABLE" not in os.environ, reason="annotations do not compile")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("k", [1, 3])
def test_compiled_choices_by_chance_are_those_of_eager_code(k):
    def choose(scores, seed):
        noisy = chunked.gumbel_noise(seed, 0, *scores.shape) + scores
        indices = chunked.largest(noisy, k)
        return indices, noisy.gather(-1, indices)

    torch.manual_seed(0)
    scores, seed = torch.randn(508, 64), chunked.draw_seed(torch.device("cpu"))
    indices, chosen = choose(scores, seed)
    compiled, found = torch.compile(choose)(scores, seed)
    assert torch.equal(indices, compiled)
    torch.testing.assert_close(chosen, found)
