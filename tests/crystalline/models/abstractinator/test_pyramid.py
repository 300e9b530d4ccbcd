"""The whole model: the past ignores the future, steps repeat the full pass, all parts learn."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy

from crystalline.quantizers.calibration import init_codebooks, visit_codebooks
from crystalline.quantizers.residual import ResidualQuantizer
from crystalline.quantizers.scalar import ScalarQuantizer
from crystalline.quantizers.vector import VectorQuantizer
from crystalline.verification.causality import first_leak
from tests.crystalline.models.abstractinator.building import CONTEXT, VOCAB, book, pyramid, shaken

TOKENS = torch.randint(0, VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(1))
BUILDS = {
    "one_level": {"num_levels": 1},
    "two_levels": {"document_end": 0},
    "three_levels": {"num_levels": 3, "document_end": 0, "expander": {"window": None}},
    "latent_flex": {"attention": {"form": "latent", "backend": "flex"}, "document_end": 3},
    "early_cut": {"segmentation": {"shift": 0, "delta_bits": 0.01, "max_length": 4}},
    "residual": {"quantizer": partial(ResidualQuantizer, codebook_size=16, num_codebooks=3)},
    "continuous": {
        "quantize": False,
        "entropy": {"head": "gaussian"},
        "document_end": 0,
        "lambda_top_regression": 0.5,
    },
    "fixed": {"segmentation": {"rule": "fixed", "max_length": 3, "min_mean_length": 3}},
    "crowded": {
        "segmentation": {"rule": "fixed", "max_length": 1, "min_mean_length": 3},
        "upper_segmentation": {"rule": "global", "theta_bits": 1.0},
    },
    "local": {
        "encoder": {"segment_local": True, "num_queries": 2, "num_layers": 2},
        "expander": {"lookback": 3, "segment_local": True},
        "num_levels": 1,
    },
    "discrete": {"mode": "discrete", "document_end": 0},
    "scalar": {"mode": "discrete", "quantizer": partial(ScalarQuantizer, levels=(3, 4))},
    "discrete_residual": {
        "mode": "discrete",
        "num_levels": 1,
        "quantizer": partial(ResidualQuantizer, codebook_size=16, num_codebooks=3),
    },
    "blind": {"lambda_top_lm": 0.0, "lambda_expansion": 0.0, "expander": {"lookback": 0}},
}


def one_changed(length: int) -> torch.Tensor:
    """A text, and under it the text with its i-th token changed."""
    text = torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(length))
    return (text + 7 * torch.cat([torch.zeros(1, length), torch.eye(length)]).long()) % VOCAB


def keeps_to_the_past(model, length: int) -> None:
    """In double precision, text by text: matrix products round a row by where it stands."""
    with torch.no_grad():
        text, *others = [model(row[None]).logits[0] for row in one_changed(length)]
    for changed, other in enumerate(others):
        assert torch.equal(other[:changed], text[:changed]), (length, changed)
        assert not torch.equal(other[changed:], text[changed:]), (length, changed)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", BUILDS)
def test_future_tokens_leave_past_logits_unchanged(name):
    model = shaken(**BUILDS[name]).double()
    for length in (2, CONTEXT):
        keeps_to_the_past(model, length)


@pytest.mark.usefixtures("unchecked")
def test_future_tokens_leave_past_logits_unchanged_in_training_too():
    model = shaken(document_end=0).double().train()
    for length in (3, CONTEXT):
        keeps_to_the_past(model, length)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", BUILDS)
def test_every_build_is_causal_at_every_length(name):
    model = shaken(**BUILDS[name]).double()
    for length in range(1, CONTEXT + 1):
        keeps_to_the_past(model, length)


@pytest.mark.slow
def test_no_leak_is_found_before_training():
    assert first_leak(pyramid(document_end=0)) is None


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", BUILDS)
def test_steps_of_any_size_repeat_the_forward_pass(name):
    model = shaken(**BUILDS[name])
    with torch.no_grad():
        full = model(TOKENS).logits
        cache = model.init_cache(2)
        bounds = [0, 1, 10, CONTEXT]
        parts = [model.step(TOKENS[:, a:b], cache) for a, b in pairwise(bounds)]
    torch.testing.assert_close(torch.cat(parts, 1), full, atol=1e-5, rtol=1e-4)


def test_codes_are_told_when_their_segments_end_and_never_change():
    model = shaken(document_end=0, num_levels=3)
    with torch.no_grad():
        codes = model(one_changed(CONTEXT), codes=True).codes
    assert list(codes) == [f"levels.{index}.compressor.quantizer" for index in range(3)]
    for found in codes.values():
        assert found.mask is not None
        assert found.mask[0].any()
        for changed in range(CONTEXT):
            seen = found.last_tokens()[0] < changed
            assert torch.equal(found.indices[changed + 1, seen], found.indices[0, seen])
            assert torch.equal(found.mask[changed + 1, seen], found.mask[0, seen])
    below, above = codes["levels.0.compressor.quantizer"], codes["levels.1.compressor.quantizer"]
    ends = set(below.ends[0, below.mask[0]].tolist())
    assert set(above.ends[0, above.mask[0]].tolist()) <= ends  # of whole segments below


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", BUILDS)
def test_every_parameter_gets_a_gradient_whatever_is_cut(name):
    model = pyramid(**BUILDS[name])
    for tokens in (TOKENS, TOKENS[:, :1], TOKENS * 0):  # no segment ends; one does after each
        model.zero_grad()
        output = model(tokens)
        weights = model.loss_weights(0.0)
        assert all(torch.isfinite(value) for value in output.losses.values())
        output.total(output.logits.logsumexp(-1).mean(), weights).backward()
        idle = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
        assert idle == model.parameters_without_gradient() == frozenset()


def test_bytes_alone_reach_the_encoder_through_codes_and_leave_the_entropy_model_alone():
    model = pyramid(segmentation={"rule": "relative", "max_length": 3})
    output = model(TOKENS[:, :-1])
    cross_entropy(output.logits.mT, TOKENS[:, 1:]).backward()
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        own = any(p in name for p in ("entropy_model", "code_head", "content")) or name.endswith(
            "codes"
        )
        assert reached != own or name.endswith("queries"), name


@pytest.mark.parametrize("name", ["one book", "three books"])
def test_codes_learn_by_their_own_loss_and_heads_do_not_move_them(name):
    vector = partial(VectorQuantizer, codebook_size=16)
    model = pyramid(quantizer=vector if name == "one book" else BUILDS["residual"]["quantizer"])
    losses = model(TOKENS).losses
    codes = [parameter for _, parameter in model.codebook_parameters()]
    for name, loss in losses.items():
        model.zero_grad()
        loss.backward(retain_graph=True)
        moved = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in codes]
        assert moved == [name == "codebook"] * 2, name


def test_the_top_regresses_the_next_vector_which_does_not_come_to_meet_it():
    model = pyramid(num_levels=1, quantize=False, lambda_top_regression=1.0)
    _, topmost = model.climb(model.read(TOKENS, None), {}, None)
    said = model.speak(topmost, None)
    foretold = model.top.vector_head(said)
    errors = [
        (foretold[row, at - 1] - topmost.vectors[row, at]).square().mean()
        for row, at in topmost.real.nonzero().tolist()
        if at > 0
    ]
    loss = model(TOKENS).losses["top_regression"]
    torch.testing.assert_close(loss, torch.stack(errors).mean())
    vectors = torch.autograd.grad(
        model.top.regression(said.detach(), topmost), topmost.vectors, allow_unused=True
    )
    assert vectors == (None,)
    assert model.loss_weights(0.0)["top_regression"] == 1.0
    assert "top_regression" not in pyramid(num_levels=1)(TOKENS).losses


def test_a_document_is_read_as_if_it_stood_alone():
    model = shaken(document_end=0, segmentation={"rule": "relative", "delta_bits": 0.01})
    first, second = TOKENS[0, :12].clamp(min=1), TOKENS[1, :15].clamp(min=1)
    end = torch.zeros(1, dtype=torch.int64)
    joined = model(torch.cat([first, end, second])[None]).logits[0, 12:]
    other = model(torch.cat([second[:12], end, second])[None]).logits[0, 12:]
    torch.testing.assert_close(joined, other)


def test_what_else_stands_in_a_text_does_not_change_the_vector_of_a_segment_local_segment():
    model = shaken(
        num_levels=1, encoder={"segment_local": True, "num_layers": 2}, quantize=False,
        segmentation={"rule": "fixed", "max_length": 4, "min_mean_length": 4},
    ).double()  # fmt: skip
    other = (TOKENS + 5) % VOCAB
    other[:, 8:12] = TOKENS[:, 8:12]
    vectors = [model.climb(model.read(x, None), {}, None)[0][0].segments for x in (TOKENS, other)]
    kept, changed = (segments.vectors for segments in vectors)
    torch.testing.assert_close(changed[:, 2], kept[:, 2], rtol=0, atol=1e-12)
    assert not torch.isclose(changed, kept).all(-1)[:, [0, 1, 3, 4, 5, 6]].any()
    assert (kept[~vectors[0].finished] == 0).all()


def test_only_real_segments_reach_the_quantizer():
    model = shaken(document_end=0)
    seen = {}
    visit_codebooks(model, TOKENS, lambda site, book, inputs: seen.update({site: inputs}))
    climbs, _ = model.climb(model.read(TOKENS, None), {}, None)
    assert len(seen) == len(climbs)
    for inputs, climb in zip(seen.values(), climbs, strict=True):
        assert len(inputs) == climb.segments.finished.sum() < climb.segments.finished.numel()
        assert (inputs.abs().sum(-1) > 0).all()
    init_codebooks(model, TOKENS, seed=0)


def test_padding_is_neither_learned_from_nor_counted():
    model = shaken(document_end=0).train()
    output = model(TOKENS, codes=True)
    climbs, _ = model.eval().climb(model.read(TOKENS, None), {}, None)
    for site, level in enumerate(model.levels):
        segments, book = climbs[site].segments, level.compressor.quantizer
        chosen = segments.chosen.indices[segments.finished]
        assert torch.equal(book.round_counts[0], chosen.flatten().bincount(minlength=16))
    assert output.losses["codebook"] > 0


def test_an_edited_code_changes_what_is_said_from_its_segment_on_and_reaches_steps():
    model = shaken()
    site = "levels.0.compressor.quantizer"
    plain = model(TOKENS, codes=True)
    ends = plain.codes[site].ends[:, 3]

    def edit(choice):
        changed = (choice.indices + 1) % 16
        return torch.where((choice.positions >= 3)[:, None], changed, choice.indices)

    edited = model(TOKENS, edits={site: edit}).logits
    for row, end in enumerate(ends.tolist()):
        assert torch.equal(edited[row, :end], plain.logits[row, :end])
        assert not torch.allclose(edited[row, end:], plain.logits[row, end:])
    cache = model.init_cache(2)
    parts = [
        model(TOKENS[:, a:b], edits={site: edit}, cache=cache).logits
        for a, b in [(0, 19), (19, 21), (21, CONTEXT)]
    ]
    torch.testing.assert_close(torch.cat(parts, 1), edited, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_short_texts_are_learned_by_heart():
    model = pyramid(num_levels=1, top={"d_model": 16}, expander={"num_layers": 2})
    tokens = torch.randint(0, VOCAB, (4, 17), generator=torch.Generator().manual_seed(3))
    tokens[:, 0] = torch.arange(4)  # the first token says which text it is
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for _ in range(150):
        output = model(tokens[:, :-1])
        exact = bool((output.logits.argmax(-1) == tokens[:, 1:]).all())
        if exact:
            break
        optimizer.zero_grad()
        loss = cross_entropy(output.logits.mT, tokens[:, 1:])
        output.total(loss, model.loss_weights(0.0)).backward()
        optimizer.step()
    assert exact
    cache = model.eval().init_cache(4)
    text = tokens[:, :1]
    for _ in range(16):
        text = torch.cat([text, model.step(text[:, -1:], cache)[:, -1:].argmax(-1)], 1)
    assert torch.equal(text, tokens)


def test_codes_move_with_their_mean_where_the_quantizer_says_so():
    model = pyramid(quantizer=partial(book, update="ema"))
    books = model.codebooks()
    assert list(dict(model.codebook_parameters())) == []
    before = {site: each.codes.clone() for site, each in books.items()}
    model.begin_round(0.0)
    model(TOKENS)
    model.end_round(torch.tensor(False))
    for site, each in books.items():
        used = (each.counts > 0)[0]
        assert used.any()
        assert not torch.equal(each.codes[0, used], before[site][0, used])
        assert torch.equal(each.codes[0, ~used], before[site][0, ~used])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"num_levels": 0}, "model.num_levels"),
        ({"document_end": 30}, "model.document_end"),
        ({"quantize": False}, "model.entropy.head"),
        ({"entropy": {"head": "both"}}, "model.entropy.head"),
        ({"segmentation": {"rule": "word"}}, "model.segmentation.rule"),
        ({"segmentation": {"rule": "global"}}, "model.segmentation.theta_bits"),
        ({"segmentation": {"rule": "space"}}, "reads bytes"),
        ({"segmentation": {"rule": "fixed", "max_length": None}}, "model.segmentation.max_length"),
        ({"segmentation": {"min_mean_length": 0.5}}, "model.segmentation.min_mean_length"),
        ({"encoder": {"num_queries": 0}}, "model.encoder.num_queries"),
        ({"expander": {"lookback": -1}}, "model.expander.lookback"),
        ({"top": {"num_heads": 5}}, "num_heads"),
    ],
)
def test_options_that_cannot_be_are_named(options, key):
    with pytest.raises(ValueError, match=key):
        pyramid(**options)
