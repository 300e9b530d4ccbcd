import math

import pytest
import torch
import torch.nn.functional as F

from crystalline.models.crystalline.sites import OUTPUT_RMS
from crystalline.models.transformer import Transformer
from crystalline.quantizers.bottlenecks.grouped import Trace
from lightning_modules.objectives import decay_groups
from tests.model_zoo import CONTEXT, HEADS, VOCAB, WIDTH, build, crystalline

TOKENS = torch.randint(0, VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(0))


def test_without_bottlenecks_it_is_the_transformer():  # M2
    torch.manual_seed(0)
    plain = Transformer(VOCAB, CONTEXT, WIDTH, 2, HEADS)
    model = crystalline(places=())
    model.load_state_dict(
        {
            name.replace("blocks.", "layers.").replace(".mlp.", ".feedforward."): value
            for name, value in plain.state_dict().items()
        }
    )
    assert torch.equal(model(TOKENS).logits, plain(TOKENS).logits)
    assert model.count_parameters() == plain.count_parameters()


@torch.no_grad()
@pytest.mark.parametrize("learned", [False, True])
def test_a_text_of_one_token_shows_whether_places_are_known(learned):
    model = crystalline(places=(), learned_positions=learned)
    logits = model(torch.zeros(1, CONTEXT, dtype=torch.int64)).logits[0]
    assert torch.allclose(logits, logits[:1].expand_as(logits), atol=1e-5) != learned


@torch.no_grad()
@pytest.mark.parametrize(("place", "rms"), [("attn_pre", 0.5), ("attn_pre", None), ("block", 1)])
def test_places_write_as_loud_as_they_are_told_to(place, rms):
    torch.manual_seed(0)
    told = {} if rms is None else {place: rms}
    model = crystalline(places=(place,), mode="noise", distortion=1e-3, output_rms=told)
    written = []
    site = getattr(model.layers[0], place)
    site.register_forward_hook(lambda *call: written.append(call[2]))
    model.eval()(TOKENS)
    assert written[0].square().mean().sqrt() == pytest.approx(rms or OUTPUT_RMS[place], rel=1e-2)


@torch.no_grad()
def test_corrupted_places_write_what_the_sequence_before_them_wrote():
    both = torch.cat([TOKENS[:1]] * 2), TOKENS
    model = crystalline(places=("mlp",), corruption={"mlp": 1.0}, noise=False)
    clean = crystalline(places=("mlp",), noise=False)
    clean.load_state_dict(model.state_dict())
    for tokens, alike in zip(both, (True, False), strict=True):
        assert torch.equal(model(tokens).logits, clean(tokens).logits) == alike
        assert torch.equal(model.eval()(tokens).logits, clean.eval()(tokens).logits)
        model.train()
        clean.train()


def test_a_corrupted_share_of_positions_passes_no_gradient_to_what_it_replaces():
    torch.manual_seed(0)
    block = crystalline(places=(), corruption={"mlp": 0.25}).layers[0]
    y = torch.zeros(64, 64, 4, requires_grad=True)
    trace = Trace.of("layers.0", None, entropy=False)
    block._through(trace, torch.arange(64), "mlp", y).sum().backward()
    assert y.grad is not None
    assert set(y.grad.unique().tolist()) == {0.0, 1.0}
    assert 1 - y.grad.mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_shares_that_are_none_are_refused(share):
    with pytest.raises(ValueError, match=r"sites.corruption.mlp must lie in \[0, 1\]"):
        crystalline(corruption={"mlp": share})


@pytest.mark.parametrize("name", ["crystalline", "codebook_features", "crystalline_source"])
def test_training_starts_at_chance(name):  # M3
    torch.manual_seed(0)
    model = crystalline("source") if name.endswith("source") else build(name)
    logits = model(TOKENS[:, :-1]).logits
    loss = F.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(VOCAB), rel=0.05)


def test_every_group_is_a_site_with_codes_of_one_book():
    model = crystalline(groups=2, num_codes_k=3).eval()
    codes = model(TOKENS, codes=True).codes
    places = {"attn_pre": HEADS, "attn_post": 2, "mlp": 2}
    expected = [
        f"layers.{layer}.{place}.group.{group}"
        for layer in range(2)
        for place, groups in places.items()
        for group in range(groups)
    ]
    assert list(codes) == expected
    assert set(model.codebooks()) == set(expected)
    site = codes[expected[0]]
    assert site.shared
    assert site.indices.shape == (2, CONTEXT, 3)
    assert (site.indices.sort(-1).values.diff(dim=-1) > 0).all()  # k different codes
    assert site.entropy.shape == (2, CONTEXT)
    assert 0 <= site.entropy.min() <= site.entropy.max() <= math.log(16)


def test_layers_without_bottlenecks_have_none():
    model = crystalline(layers=[1]).eval()
    assert all(site.startswith("layers.1.") for site in model(TOKENS, codes=True).codes)


def test_temperatures_are_listed_where_they_are_learned_and_never_decay():  # G11
    model = crystalline(temp_scope="position")
    model(TOKENS)
    temperatures = model.temperatures()
    assert set(temperatures) == {
        f"layers.{layer}.{place}" for layer in (0, 1) for place in ("attn_pre", "attn_post", "mlp")
    }
    torch.testing.assert_close(temperatures["layers.0.attn_pre"], torch.full((HEADS,), 0.2))
    assert crystalline(temp_scope="fixed").temperatures() == {}
    codes = {id(parameter) for _, parameter in model.codebook_parameters()}
    decayed = next(g for g in decay_groups(model.parameters(), exempt=codes) if len(g) == 1)
    kept = {id(parameter) for parameter in decayed["params"]}
    for name, parameter in model.named_parameters():
        if "temperature" in name or "gain" in name or name.endswith("codes"):
            assert id(parameter) not in kept, name


def test_the_weight_of_compression_sets_in_late_but_not_in_the_source():
    model = crystalline()
    grown = [model.loss_weights(p)["compression"] for p in (0.0, 0.05, 0.125, 0.2, 1.0)]
    assert grown == pytest.approx([0, 0, 0.005, 0.01, 0.01])
    assert crystalline("source").loss_weights(0.0)["compression"] == 0.01


def test_a_code_that_is_taken_away_is_replaced_by_the_next_best():
    model = crystalline(num_codes_k=2).eval()
    site = "layers.1.mlp.group.0"
    plain = model(TOKENS, codes=True).codes[site].indices
    victim = int(plain[0, 0, 0])
    banned = torch.zeros(1, 16, dtype=torch.bool)
    banned[0, victim] = True
    edited = model(TOKENS, codes=True, edits={site: lambda choice: choice.without(banned)})
    found = edited.codes[site].indices
    assert not (found == victim).any()
    untouched = ~(plain == victim).any(-1)
    assert torch.equal(found[untouched], plain[untouched])
    assert untouched.any()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mode": "mixed"}, "model.mode"),
        ({"places": ("attn_mid",)}, "sites.places"),
        ({"groups": 3}, "sites.groups"),
        ({"layers": [2]}, "sites.layers"),
        ({"output_rms": {"heads": 1.0}}, "sites.output_rms must be among attn_pre, "),
        ({"output_rms": {"mlp": 0.0}}, "sites.output_rms.mlp must be positive"),
        ({"estimator": "input_ste"}, "no gradient"),
    ],
)
def test_contradictions_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        crystalline(**options)
