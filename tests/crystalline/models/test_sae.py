from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy

from crystalline.contract import LanguageModel
from crystalline.interpret.interventions import activate
from crystalline.interpret.sites import find_sites
from crystalline.models.sae import Sites, SparseAutoencoders
from crystalline.models.transformer import Transformer
from lightning_modules.objectives import Dual, Single
from lightning_modules.schedules import Schedule
from tests.model_zoo import CONTEXT, HEADS, VOCAB, WIDTH, crystalline, ziggurat

K, k = 24, 3
EVERY = ("attn_pre", "attn_post", "mlp", "block")

BASES = {
    "transformer": lambda: Transformer(VOCAB, CONTEXT, WIDTH, 2, HEADS, dropout=0.3),
    "crystalline_nowhere": lambda: crystalline(places=()),
}


def tokens(batch: int = 2, length: int = CONTEXT, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def build(base: str | LanguageModel = "transformer", places=EVERY, **options) -> SparseAutoencoders:
    torch.manual_seed(0)
    model = BASES[base]() if isinstance(base, str) else base
    sites = {name: options.pop(name) for name in ("groups", "layers") if name in options}
    options = {"context_length": CONTEXT, "num_codes_k": k, **options}
    return SparseAutoencoders(
        VOCAB, base=model, codebook_size=K, sites=Sites(places, **sites), **options
    )


def train(model: SparseAutoencoders, rounds: int, batch: torch.Tensor) -> list[float]:
    """Reconstruction losses of so many rounds, ended as a LightningModule ends them."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, found = torch.optim.Adam(trained, lr=1e-2), []
    for _ in range(rounds):
        output = model.train()(batch[:, :-1])
        loss = cross_entropy(output.logits.flatten(0, 1), batch[:, 1:].flatten())
        weights = model.loss_weights(0.5)
        optimizer.zero_grad()
        (loss + sum(weights[name] * term for name, term in output.losses.items())).backward()
        optimizer.step()
        for book in model.codebooks().values():
            book.end_round(torch.tensor(False))
        found.append(output.losses["reconstruction"].item())
    return found


@pytest.fixture(params=BASES, scope="module")
def trained(request) -> SparseAutoencoders:
    """Away from its start: statistics, thresholds and usual strengths are there."""
    model = build(request.param)
    before = {key: value.clone() for key, value in model.base.state_dict().items()}
    losses = train(model, 8, tokens(4))
    assert losses[-1] < losses[1]  # the first round is not standardised yet
    assert all(torch.equal(value, before[key]) for key, value in model.base.state_dict().items())
    return model.eval()


def test_future_tokens_leave_past_logits_and_codes_unchanged(trained):  # M1
    batch = tokens(2, seed=1)
    with torch.no_grad():
        before = trained(batch, codes=True)
        for changed in range(0, CONTEXT, 5):
            other = batch.clone()
            other[:, changed:] = (other[:, changed:] + 7) % VOCAB
            after = trained(other, codes=True)
            assert torch.equal(after.logits[:, :changed], before.logits[:, :changed])
            assert not torch.equal(after.logits[:, changed:], before.logits[:, changed:])
            for site, codes in before.codes.items():
                found = after.codes[site].indices[:, :changed]
                assert torch.equal(found, codes.indices[:, :changed])


def test_steps_repeat_the_forward_pass_and_edits_reach_cached_positions(trained):  # I4
    batch = tokens(2, seed=2)
    name = "layers.0.mlp.group.0"
    edits = {name: activate(find_sites(trained)[name], 5, positions=torch.tensor([3, 20]))}
    for asked in (None, edits):
        with torch.no_grad():
            full = trained(batch, edits=asked).logits
            cache = trained.init_cache(2)
            parts = [
                trained(batch[:, a:b], edits=asked, cache=cache).logits
                for a, b in pairwise([0, 7, 8, 20, CONTEXT])
            ]
        torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-4, rtol=1e-4)


def test_sites_have_the_names_of_crystalline(trained):
    groups = {"attn_pre": HEADS, "attn_post": 1, "mlp": 1, "block": 1}
    expected = {
        f"layers.{layer}.{place}.group.{group}"
        for layer in (0, 1)
        for place, number in groups.items()
        for group in range(number)
    }
    assert set(trained.codebooks()) == expected
    output = trained(tokens(), codes=True)
    assert set(output.codes) == expected
    codes = output.codes["layers.1.mlp.group.0"]
    assert codes.shared
    assert codes.codebook_size == K
    assert codes.indices.shape == codes.weights.shape == (2, CONTEXT, 2 * k)
    alike = set(crystalline(places=EVERY).codebooks())
    assert alike == expected


def test_training_sees_the_base_as_it_is(trained):
    batch = tokens(seed=3)
    with torch.no_grad():
        alone = trained.base(batch).logits
        try:
            output = trained.train()(batch)
        finally:
            trained.eval()
        assert torch.equal(output.logits, alone)  # unspliced, and without dropout
        assert not torch.equal(trained(batch).logits, alone)


def test_nothing_of_the_prediction_reaches_the_autoencoders():
    model = build()
    output = model(tokens())
    assert not output.hidden.requires_grad
    assert not output.logits.requires_grad
    torch.stack(list(output.losses.values())).sum().backward()
    without = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set()
    assert all(p.grad is None for p in model.base.parameters())


def test_one_batch_can_be_learned_until_splicing_costs_little():  # overfit
    base = Transformer(VOCAB, CONTEXT, WIDTH, 2, HEADS)
    batch = tokens(2, 13, seed=3)
    optimizer = torch.optim.Adam(base.parameters(), lr=1e-2)
    for _ in range(60):
        scores = base(batch[:, :-1]).logits.flatten(0, 1)
        optimizer.zero_grad()
        cross_entropy(scores, batch[:, 1:].flatten()).backward()
        optimizer.step()
    model = build(base, ("mlp",), num_codes_k=6)

    def loss() -> float:
        with torch.no_grad():
            scores = model.eval()(batch[:, :-1]).logits
        return cross_entropy(scores.flatten(0, 1), batch[:, 1:].flatten()).item()

    alone = cross_entropy(base(batch[:, :-1]).logits.flatten(0, 1), batch[:, 1:].flatten()).item()
    start = loss()
    train(model, 60, batch)
    assert start > alone + 0.2
    assert loss() < alone + 0.25 * (start - alone)


def test_groups_and_layers_are_where_they_are_asked_for():
    model = build(places=("mlp",), groups=4, layers=[1])
    assert list(model.codebooks()) == [f"layers.1.mlp.group.{g}" for g in range(4)]
    counts = model.count_parameters()
    values = 4 * K * (WIDTH // 4)
    assert counts["parameters"] - counts["parameters_without_codebooks"] == values


@pytest.mark.parametrize("kind", ["single", "dual"])
def test_optimizers_own_the_autoencoders_alone(kind):
    model = build()
    schedule = Schedule("constant", 0, 1.0)
    if kind == "single":
        objective = Single(1, 1.0, schedule)
    else:
        objective = Dual(1, 1.0, schedule, 1e-3, 0.0, None, joint_clip=False)
    optimizers = objective.optimizers(
        model, lambda p, lr=1e-2, **more: torch.optim.AdamW(p, lr, **more)
    )
    owned = [id(p) for o in optimizers.values() for g in o.param_groups for p in g["params"]]
    named = dict(model.named_parameters())
    expected = {id(p) for name, p in named.items() if not name.startswith("base.")}
    assert len(owned) == len(set(owned))
    assert set(owned) == expected
    if kind == "dual":
        codes = {id(book.codes) for book in model.codebooks().values()}
        assert {id(p) for g in optimizers["codes"].param_groups for p in g["params"]} == codes


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"places": ("mlps",)}, "sites.places must be some of attn_pre, attn_post, mlp, block"),
        ({"places": ()}, "sites.places must be some of"),
        ({"layers": [2]}, r"sites.layers must lie in \[0, 2\)"),
        ({"groups": 5}, "sites.groups must divide"),
        ({"context_length": CONTEXT + 1}, "model.context_length=41: model.base reads 40"),
        ({"base": ziggurat(2, placement="none")}, "this one fuses tokens"),
        ({"base": ziggurat(1, placement="none")}, r"has no attn_pre, attn_post; valid: mlp, block"),
    ],
)
def test_wrong_options_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        build(**options)


def test_codes_of_the_base_are_a_part_of_what_is_frozen():
    base = crystalline("codebook_features", places=("mlp",))
    counted = base.codebooks()["layers.0.mlp.group.0"].counts
    model = build(base, ("mlp",))
    train(model, 1, tokens())
    assert all(
        book is not other
        for book, other in zip(model.codebooks().values(), base.codebooks().values(), strict=True)
    )
    assert [n for n, p in base.named_parameters() if p.requires_grad] == []
    assert counted.sum() == 0


def test_an_mlp_of_another_family_can_be_read():
    model = build(ziggurat(1, placement="none"), ("mlp",))
    assert set(model(tokens(), codes=True).codes) == {f"layers.{i}.mlp.group.0" for i in (0, 1)}
