"""Gates, budgets and the baselines of spec section 7.3, as whole models."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from crystalline.models.crystalline import Crystalline, Selection, Sites
from crystalline.models.transformer import Transformer
from crystalline.quantizers.bottlenecks import Bottleneck, GaussianNoise
from crystalline.quantizers.bottlenecks.base import unit_rms
from crystalline.quantizers.calibration import init_codebooks, visit_codebooks
from lightning_modules.objectives import Dual, decay_groups
from lightning_modules.schedules import Schedule
from tests.selection import often

VOCAB, CONTEXT, WIDTH, HEADS, K = 30, 24, 16, 2, 16
PLACES = ("attn_pre", "attn_post", "mlp")
GROUPS = HEADS + 1 + 1  # of a layer

VARIANTS = {
    "gate": {"gate": "learned"},
    "gate_features": {"gate": "learned", "mode": "codebook_features"},
    "gate_source": {"gate": "learned", "mode": "source"},
    "budget": {"budget": "batch"},
    "budget_position": {"budget": "batch", "temp_scope": "position", "aggregate": "sum"},
    "budget_features": {"budget": "batch", "mode": "codebook_features"},
    "both": {"gate": "learned", "budget": "batch"},
    "frozen": {"update": "frozen"},
    "frozen_features": {"update": "frozen", "mode": "codebook_features"},
    "frozen_source": {"update": "frozen", "mode": "source"},
    "noise": {"mode": "noise", "distortion": 0.7},
}


def build(**options) -> Crystalline:
    torch.manual_seed(0)
    own = {"mode", "lambda_gate"} & options.keys()
    model = {name: options.pop(name) for name in own}
    sites = Sites(PLACES, gate=options.pop("gate", "none"))
    return Crystalline(
        VOCAB, CONTEXT, WIDTH, 2, HEADS, K, 3, sites, Selection(**options), temp_init=0.2, **model
    )


def tokens(batch: int = 2, length: int = CONTEXT, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def train(model: Crystalline, rounds: int, optimizers=None, until: float = 0.0) -> list[float]:
    """Prediction losses of so many rounds on one batch, ended as a LightningModule ends them.

    A loss below `until` ends them sooner.
    """
    optimizers = optimizers or {"main": torch.optim.AdamW(model.parameters(), lr=1e-2)}
    batch, found = tokens(), []
    for _ in range(rounds):
        output = model(batch[:, :-1])
        loss = cross_entropy(output.logits.flatten(0, 1), batch[:, 1:].flatten())
        weights = model.loss_weights(0.5)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        (loss + sum(weights[name] * term for name, term in output.losses.items())).backward()
        for optimizer in optimizers.values():
            optimizer.step()
        for book in model.codebooks().values():
            book.end_round(torch.tensor(False))
        found.append(loss.item())
        if found[-1] < until:
            break
    return found


@pytest.fixture(params=often(VARIANTS, "gate", "budget_position", "both", "frozen_source", "noise"))
def trained(request) -> Crystalline:
    """A model away from its start, so that gates, thresholds and choices differ by position."""
    model = build(**VARIANTS[request.param])
    init_codebooks(model, tokens(4), seed=0)
    train(model, 10)
    return model.eval()


def test_future_tokens_leave_past_logits_unchanged(trained):  # M1
    batch = tokens(2, seed=1)
    with torch.no_grad():
        before = trained(batch, codes=True)
        for changed in range(CONTEXT):
            other = batch.clone()
            other[:, changed:] = (other[:, changed:] + 7) % VOCAB
            after = trained(other, codes=True)
            assert torch.equal(after.logits[:, :changed], before.logits[:, :changed])
            assert not torch.equal(after.logits[:, changed:], before.logits[:, changed:])
            for site, codes in before.codes.items():
                found = after.codes[site].indices[:, :changed]
                assert torch.equal(found, codes.indices[:, :changed])


def test_evaluation_repeats_itself_and_asks_no_other_row(trained):
    batch = tokens(5, seed=2)
    with torch.no_grad():
        together = trained(batch).logits
        assert torch.equal(trained(batch).logits, together)
        alone = torch.cat([trained(row[None]).logits for row in batch])
        cache = trained.init_cache(5)
        steps = torch.cat([trained.step(part, cache) for part in batch.split([7, 1, 16], 1)], 1)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(steps, together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_trainable_parameter_gets_a_gradient(name):
    model = build(**VARIANTS[name])
    train(model, 1)
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "name", often(["both", "budget_features", "frozen", "noise"], "budget_features", "noise")
)
def test_one_batch_can_be_learned(name):
    losses = train(build(**VARIANTS[name]), 80, until=2.0)
    assert losses[0] > 3.0, "chance is ln 30 = 3.4 nats"
    assert losses[-1] < 2.0


@pytest.mark.parametrize("mode", ["crystalline", "codebook_features", "source"])
def test_options_cost_the_parameters_that_they_should(mode):
    plain = build(mode=mode).count_parameters()
    assert plain["parameters"] - plain["parameters_without_codebooks"] == 2 * K * WIDTH * len(
        PLACES
    )
    assert build(mode=mode, update="frozen").count_parameters() == plain
    gates = 2 * GROUPS
    gated = build(mode=mode, gate="learned").count_parameters()
    assert gated == {name: number + gates for name, number in plain.items()}
    if mode != "source":
        assert build(mode=mode, budget="batch").count_parameters() == plain


def test_noise_costs_a_gain_for_each_group():
    own = Transformer(VOCAB, CONTEXT, WIDTH, 2, HEADS).count_parameters()["parameters"]
    found = build(mode="noise", distortion=0.7).count_parameters()
    assert found == dict.fromkeys(found, own + 2 * GROUPS)


# Gates


def test_gates_are_listed_by_place_and_never_decay():
    model = build(gate="learned")
    gates = model.gates()
    assert set(gates) == {f"layers.{layer}.{place}" for layer in (0, 1) for place in PLACES}
    torch.testing.assert_close(gates["layers.1.attn_pre"], torch.full((HEADS,), 0.9))
    assert build().gates() == {}
    decayed = {id(p) for p in decay_groups(model.parameters())[0]["params"]}
    named = dict(model.named_parameters())
    assert all(id(p) not in decayed for name, p in named.items() if name.endswith(".gate"))
    assert sum(name.endswith(".gate") for name in named) == 2 * len(PLACES)


@pytest.mark.slow
def test_the_weight_of_the_gate_loss_presses_gates_open():
    free, pressed = build(gate="learned"), build(gate="learned", lambda_gate=10.0)
    assert free.loss_weights(0.0)["gate"] == 0
    assert pressed.loss_weights(0.0)["gate"] == 10
    train(free, 30)
    train(pressed, 30)
    for place, gates in pressed.gates().items():
        assert (gates > 0.9).all()
        assert (gates > free.gates()[place]).all()
    moved = torch.cat(list(free.gates().values())) - 0.9
    assert (moved.abs() > 1e-3).all()  # the prediction alone moves them


# Frozen codes


@pytest.mark.parametrize("mode", ["crystalline", "codebook_features", "source"])
def test_frozen_codes_stay_as_they_were_drawn(mode):
    model = build(update="frozen", mode=mode)
    books = model.codebooks()
    assert len(books) == 2 * GROUPS
    before = {site: book.codes.clone() for site, book in books.items()}
    assert list(model.codebook_parameters()) == []
    schedule = Schedule("constant", 0, 1.0)
    dual = Dual(1, 1.0, schedule, 1e-2, 0.0, None, joint_clip=False)
    optimizers = dual.optimizers(model, lambda p, lr=1e-2, **more: torch.optim.AdamW(p, lr, **more))
    assert set(optimizers) == {"main"}
    train(model, 5, optimizers)
    visited = []
    visit_codebooks(model, tokens(), lambda site, *_: visited.append(site))  # as callbacks do
    init_codebooks(model, tokens(4), seed=0)
    assert visited == []
    for site, book in books.items():
        assert torch.equal(book.codes, before[site])
        assert book.counts.sum() > 0  # they are used and counted
    rms = torch.cat([codes.flatten() for codes in before.values()]).square().mean().sqrt()
    assert rms.item() == pytest.approx(1, abs=0.05)


# Noise


def test_noise_has_no_codes():
    model = build(mode="noise", distortion=0.5)
    assert model.codebooks() == {}
    assert model(tokens(), codes=True).codes == {}
    assert model(tokens()).losses == {}
    assert model.temperatures() == {}
    assert not any(isinstance(part, Bottleneck) for part in model.modules())


@pytest.mark.parametrize("distortion", [0.2, 1.5])
def test_noise_has_the_distortion_it_is_told_in_training_alone(distortion):
    noise = GaussianNoise(distortion)
    x = 7 * torch.randn(4, 500, WIDTH, generator=torch.Generator().manual_seed(0))
    n, zero = unit_rms(x), torch.ones(1, 1)
    error = (noise(x, zero).quantized - n).square().mean().sqrt() / n.square().mean().sqrt()
    assert error.item() == pytest.approx(distortion, rel=0.02)
    assert torch.equal(noise.eval()(x, zero).quantized, n)
    x.requires_grad_()
    upstream = torch.randn_like(x)
    (found,) = torch.autograd.grad(noise.train()(x, zero).quantized, x, upstream)
    (expected,) = torch.autograd.grad(unit_rms(x), x, upstream)
    assert torch.equal(found, expected)


def test_noise_differs_by_draw_in_training():
    model = build(mode="noise", distortion=0.5)
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(model(tokens()).logits)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"gate": "soft"}, "sites.gate must be none or learned"),
        ({"budget": "token"}, "budget must be position or batch"),
        ({"update": "ema"}, "selection.update must be gradient or frozen"),
        ({"mode": "noise"}, "selection.distortion"),
        ({"mode": "noise", "distortion": 0.0}, "selection.distortion"),
        ({"mode": "noise", "distortion": 0.5, "gate": "learned"}, "sites.gate"),
        ({"mode": "source", "budget": "batch"}, "selection.budget"),
        ({"mode": "mixed"}, "crystalline, codebook_features, source, noise"),
    ],
)
def test_contradictions_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        build(**options)
