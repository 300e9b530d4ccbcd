import pytest
import torch
import torch.nn.functional as F

from crystalline.contract import Choice
from crystalline.interpret.interventions import activate, deactivate, patch
from crystalline.interpret.sites import Site
from crystalline.quantizers.sparse_autoencoder import SparseAutoencoder

B, S, D, K, k = 3, 7, 5, 12, 2
ONES = torch.ones(1, 1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(budget: str = "position", num_codes_k: int = k, dead: int = 10**6) -> SparseAutoencoder:
    """Away from its start: decoder, encoder and biases all differ."""
    torch.manual_seed(0)
    sae = SparseAutoencoder(D, K, num_codes_k, budget, dead)
    with torch.no_grad():
        sae.encoder.add_(0.3 * random(K, D, seed=1))
        sae.encoder_bias.copy_(0.1 * random(K, seed=2) - 0.8)  # some scores are below 0
        sae.pre_bias.copy_(0.1 * random(D, seed=3))
    return sae


def settle(sae: SparseAutoencoder, x: torch.Tensor, rounds: int = 3) -> SparseAutoencoder:
    """Some rounds without learning: statistics, threshold and usual strengths are there."""
    for _ in range(rounds):
        sae.train()(x, ONES)
        sae.end_round(torch.tensor(False))
    return sae.eval()


def by_hand(sae: SparseAutoencoder, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What TopK writes, and z with zeros, from the equations."""
    scale = (sae.standardiser.variance + 1e-8).sqrt()
    n = (x - sae.standardiser.mean) / scale
    z = (n - sae.pre_bias) @ sae.encoder.T + sae.encoder_bias
    kept = z >= z.sort(-1, descending=True).values[..., sae.num_codes_k - 1, None]
    z = z.clamp(min=0) * kept
    return scale * (z @ sae.codes[0] + sae.pre_bias) + sae.standardiser.mean, z


def test_what_is_written_follows_the_equations():
    x = 3 * random(B, S, D) + 1
    sae = settle(build(), x)
    answer = sae(x, ONES)
    written, z = by_hand(sae, x)
    torch.testing.assert_close(answer.quantized, written)
    assert answer.codes is not None
    assert answer.codes.shared
    found = torch.zeros(B, S, K).scatter_add(-1, answer.codes.indices, answer.codes.weights)
    torch.testing.assert_close(found, z)
    assert answer.losses == {}


def test_the_loss_is_the_error_of_standardised_inputs():
    x = 3 * random(B, S, D) + 1
    sae = settle(build(), x).train()
    error = by_hand(sae, x)[0] - x
    loss = sae(x, ONES).losses["reconstruction"]
    torch.testing.assert_close(loss, error.square().mean() / (sae.standardiser.variance + 1e-8))


def test_rows_keep_length_one_and_get_no_gradient_along_themselves():
    sae = build()
    x = random(B, S, D)
    torch.testing.assert_close(sae.codes.norm(dim=-1), torch.ones(1, K))
    sae(x, ONES).losses["reconstruction"].backward()
    assert sae.codes.grad is not None
    assert sae.codes.grad.abs().sum() > 0
    along = (sae.codes.grad * sae.codes).sum(-1)
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-6, rtol=0)
    torch.optim.SGD([sae.codes], lr=1.0).step()
    sae.end_round(torch.tensor(False))
    torch.testing.assert_close(sae.codes.norm(dim=-1), torch.ones(1, K))


@pytest.mark.parametrize("budget", ["position", "batch"])
def test_slots_without_strength_repeat_the_first_and_are_not_counted(budget):
    x = random(B, 40, D)
    sae = settle(build(budget), x)
    sae.counts.zero_()
    codes = sae.train()(x, ONES).codes
    assert codes is not None
    assert codes.indices.shape == (B, 40, k if budget == "position" else 2 * k)
    unused = codes.weights == 0
    assert unused.any()
    assert (codes.indices == codes.indices[..., :1])[unused].all()
    sae.end_round(torch.tensor(False))
    assert sae.counts.sum() == (~unused).sum()


def test_a_batch_shares_k_latents_a_position():
    x = random(2, 500, D)
    sae = build("batch", num_codes_k=3)
    with torch.no_grad():
        sae.encoder_bias.add_(3)  # every score positive, so the budget alone decides
    used = (sae(x, ONES).codes.weights > 0).sum(-1)
    assert used.sum() == 3 * 1000
    assert used.min() >= 1
    assert used.max() <= 6
    settle(sae, x)
    evaluated = (sae(x, ONES).codes.weights > 0).sum(-1).double()
    assert evaluated.mean() == pytest.approx(3, abs=0.1)
    with torch.no_grad():  # evaluation asks no other position
        torch.testing.assert_close(sae(x[:1, :9], ONES).quantized, sae(x, ONES).quantized[:1, :9])


def test_one_latent_a_position_is_the_same_for_both_budgets():
    x = random(B, S, D)
    assert build("batch", num_codes_k=1).budget is None
    outputs = [build(name, num_codes_k=1)(x, ONES).quantized for name in ("batch", "position")]
    assert torch.equal(*outputs)


def test_the_usual_strength_is_the_mean_where_a_latent_is_chosen():
    x = random(B, S, D)
    sae = settle(build(), x, rounds=1)
    sae.usual.zero_()
    codes = sae.train()(x, ONES).codes
    before = sae.usual.clone()
    sae.end_round(torch.tensor(True))
    assert torch.equal(sae.usual, before)  # a skipped round teaches nothing
    sae(x, ONES)
    sae.end_round(torch.tensor(False))
    sums = torch.zeros(K).index_add_(0, codes.indices.flatten(), codes.weights.flatten())
    number = torch.bincount(codes.indices[codes.weights > 0], minlength=K)
    torch.testing.assert_close(sae.usual, sums / number.clamp(min=1))


def dead_latents(lambda_dead: float) -> list[int]:
    """How many are dead, round by round; eight never win at the start."""
    torch.manual_seed(1)
    x = F.normalize(random(4, 60, D), dim=-1)
    sae = SparseAutoencoder(D, K, k, "position", dead_positions=2000)
    with torch.no_grad():
        sae.encoder_bias[:8] = -2.2
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    found = []
    for _ in range(70):
        losses = sae(x, ONES).losses
        found.append(int((sae.idle[0] >= 2000).sum()))
        assert (losses["dead"] > 0) == (found[-1] > 0)
        optimizer.zero_grad()
        (losses["reconstruction"] + lambda_dead * losses["dead"]).backward()
        optimizer.step()
        sae.end_round(torch.tensor(False))
    return found


def test_dead_latents_learn_what_the_others_leave_and_come_back():
    alone, helped = dead_latents(0.0), dead_latents(1.0)
    assert alone[0] == helped[0] == 0
    assert alone[-1] == max(helped) == 8
    assert helped[-1] <= 4


def test_a_planted_dictionary_is_found():
    torch.manual_seed(0)
    atoms = F.normalize(torch.randn(10, 16), dim=-1)
    chosen = torch.rand(4, 100, 10).topk(2).indices
    strength = 0.5 + torch.rand(4, 100, 2)
    x = (atoms[chosen] * strength[..., None]).sum(-2)
    sae = SparseAutoencoder(16, 24, 2, "batch", 2000)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for _ in range(200):
        losses = sae(x, ONES).losses
        optimizer.zero_grad()
        (losses["reconstruction"] + losses["dead"] / 32).backward()
        optimizer.step()
        sae.end_round(torch.tensor(False))
    error = (sae.eval()(x, ONES).quantized - x).square().sum()
    assert error / (x - x.mean((0, 1))).square().sum() < 0.1
    nearest = (atoms @ sae.codes[0].T).amax(1)
    assert (nearest > 0.9).sum() >= 8


# Edits


@pytest.fixture(params=["position", "batch"])
def settled(request) -> tuple[SparseAutoencoder, Site, torch.Tensor]:
    x = random(B, 40, D)
    sae = settle(build(request.param), x)
    return sae, Site("site", K, sae.num_slots, shared=True, span=1), x


def written(sae: SparseAutoencoder, x: torch.Tensor, edit) -> torch.Tensor:
    return sae(x, ONES, override=edit).quantized


def test_its_own_choice_patched_in_changes_nothing(settled):  # I1
    sae, site, x = settled
    plain = sae(x, ONES)
    assert torch.equal(written(sae, x, patch(site, plain.codes.indices)), plain.quantized)


def test_a_latent_that_is_brought_in_has_its_usual_strength(settled):
    sae, site, x = settled
    scale = sae.standardiser.scale
    plain = sae(x, ONES)
    code = int(sae.usual.argmax())
    edited = sae(x, ONES, override=activate(site, code))
    has = (plain.codes.indices == code).any(-1)
    last_used = plain.codes.weights[..., -1] > 0
    free = ~has & ~last_used
    assert free.any()
    added = edited.quantized - plain.quantized
    torch.testing.assert_close(
        added[free], (scale * sae.usual[code] * sae.codes[0, code]).expand_as(added[free])
    )
    assert (edited.codes.indices == code).any(-1).all()
    assert torch.equal(edited.quantized[has & ~last_used], plain.quantized[has & ~last_used])


def test_a_latent_that_is_taken_away_gives_way_to_the_next_with_its_own_strength(settled):  # I2
    sae, site, x = settled
    plain = sae(x, ONES)
    code = int(sae.counts[0].argmax())
    edited = sae(x, ONES, override=deactivate(site, [code]))
    assert not (edited.codes.indices == code).any()
    has = (plain.codes.indices == code).any(-1)
    assert torch.equal(edited.quantized[~has], plain.quantized[~has])
    with torch.no_grad():
        sae.encoder_bias[code] = -1e9  # as if it were not there
    without = sae(x, ONES)
    torch.testing.assert_close(edited.quantized[has], without.quantized[has])


def test_an_edit_sees_positions_and_a_choice(settled):
    sae, _, x = settled
    seen: list[Choice] = []

    def edit(choice: Choice) -> torch.Tensor:
        seen.append(choice)
        return choice.indices

    sae(x, ONES, override=edit, positions=torch.arange(5, 45))
    assert seen[0].positions[0] == 5
    assert seen[0].indices.shape == (B, 40, sae.num_slots)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"budget": "token"}, "budget must be position or batch"),
        ({"num_codes_k": 13}, "num_codes_k must lie in"),
        ({"budget": "batch", "num_codes_k": 7}, "num_codes_k must lie in"),
        ({"dead": 0}, "dead_positions must be at least 1"),
    ],
)
def test_wrong_values_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        build(**options)
