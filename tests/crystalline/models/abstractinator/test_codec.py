"""Mode discrete: what codes cost, what they are worth, and the way back from them."""

import pytest
import torch

from crystalline.models.abstractinator.codec import (
    code_length,
    compress_all,
    expand,
    generate_bytes,
    generate_codes,
)
from crystalline.models.abstractinator.descent import token_costs
from tests.crystalline.models.abstractinator.building import (
    CONTEXT,
    VOCAB,
    pyramid,
    shaken,
)

TOKENS = torch.randint(0, VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(1))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("levels", [1, 2])
def test_what_is_written_from_codes_is_the_likeliest_text_given_them(levels):
    model = shaken(mode="discrete", num_levels=levels, document_end=0)
    codes = torch.randint(0, 16, (9, 1), generator=torch.Generator().manual_seed(5))
    prompt = torch.tensor([4, 2, 7][:levels])
    text = expand(model, codes, prompt)
    assert torch.equal(text[:levels], prompt)
    assert 9 <= len(text) <= CONTEXT

    def told(choice):
        wanted = torch.cat([codes, codes.new_zeros(len(text), 1)])
        return wanted[choice.positions].expand_as(choice.indices)

    edits = {"levels.0.compressor.quantizer": told}
    climbs, topmost = model.climb(model.read(text[None], None), edits, None)
    hidden, _ = model.descend(climbs, model.speak(topmost, None), topmost, own=True)
    assert torch.equal((hidden @ model.head.T).argmax(-1)[0, levels - 1 : -1], text[levels:])
    assert int(climbs[0].segments.finished.sum()) == 9 or len(text) == CONTEXT


@pytest.mark.parametrize("levels", [1, 2])
def test_told_its_codes_a_token_depends_on_earlier_ones_alone(levels):
    model = shaken(mode="discrete", num_levels=levels, document_end=0).double()
    held = {site: codes.indices[:1] for site, codes in model(TOKENS, codes=True).codes.items()}

    def told(site):
        return lambda choice: held[site][:, choice.positions].expand_as(choice.indices)

    edits = {site: told(site) for site in held}

    def spoken(tokens):
        climbs, topmost = model.climb(model.read(tokens, None), edits, None)
        said = model.speak(topmost, None)
        hidden, _ = model.descend(climbs, said, topmost, own=True)
        segments = climbs[0].segments
        return hidden[0], segments.cut.aim[0] < segments.finished.sum()

    text, has_code = spoken(TOKENS[:1])
    seen = 0
    for place in range(1, CONTEXT):
        changed = TOKENS[:1].clone()
        changed[0, place] = (changed[0, place] + 3) % VOCAB
        other, also = spoken(changed)
        told_its_code = (has_code & also)[:place]  # whether a segment ends is told beside its code
        assert torch.equal(other[:place][told_its_code], text[:place][told_its_code])
        seen += int(told_its_code.sum())
    assert seen > CONTEXT * CONTEXT / 4


def test_both_parts_of_a_description_cost():
    spent = code_length(shaken(mode="discrete", num_levels=2, document_end=0), TOKENS)
    assert (spent["tokens"] > 0).all()
    assert (spent["codes"] > 0).all()


def test_a_token_is_reconstructed_from_its_own_code():
    model = shaken(mode="discrete", num_levels=1)
    site = "levels.0.compressor.quantizer"
    climbs, topmost = model.climb(model.read(TOKENS, None), {}, None)
    said = model.speak(topmost, None)
    plain, _ = model.descend(climbs, said, topmost, own=True)

    def edit(choice):
        return torch.where((choice.positions == 3)[:, None], 5, choice.indices)

    edited, top = model.climb(model.read(TOKENS, None), {site: edit}, None)
    other, _ = model.descend(edited, model.speak(top, None), top, own=True)
    into = climbs[0].segments.cut.aim
    before = (into < 3) & (climbs[0].segments.chosen.indices[:, 3] != 5)
    assert torch.equal(other[before], plain[before])
    its_own = (into == 3) & (climbs[0].segments.chosen.indices[:, 3] != 5)
    assert not torch.isclose(other[its_own], plain[its_own]).all(-1).any()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("mode", ["discrete", "latent_conditioning"])
def test_text_goes_on(mode):
    model = shaken(mode=mode, document_end=0)
    torch.manual_seed(0)
    text = generate_bytes(model, TOKENS[:, :25], 50)
    assert text.shape == (2, CONTEXT)
    assert torch.equal(text[:, :25], TOKENS[:, :25])
    drawn = [generate_bytes(model, TOKENS[:, :25], 50) for _ in range(2)]
    assert not torch.equal(*drawn)
    again = generate_bytes(model, TOKENS[:, :5], 3, temperature=0.0)
    assert torch.equal(again, generate_bytes(model, TOKENS[:, :5], 3, temperature=0.0))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("levels", [1, 2])
def test_drawn_codes_are_for_what_comes_and_not_for_what_is_known(levels):
    model = shaken(mode="discrete", num_levels=levels, document_end=0)
    spoken = []
    for seed in range(3):
        torch.manual_seed(seed)
        cache = model.init_cache(2)
        cache.draw = True
        spoken.append(model.step(TOKENS, cache))
    climbs, topmost = model.climb(model.read(TOKENS, None), {}, None)
    own, _ = model.descend(climbs, model.speak(topmost, None), topmost, own=True)
    segments = climbs[0].segments
    known = segments.cut.aim < segments.finished.sum(1, keepdim=True)
    assert known.sum() > CONTEXT
    for other in spoken:
        torch.testing.assert_close(other[known], (own @ model.head.T)[known])
    assert not torch.equal(spoken[0][~known], spoken[1][~known])


@pytest.mark.usefixtures("unchecked")
def test_codes_may_all_come_first():
    model = shaken(mode="discrete", num_levels=1, document_end=0)
    codes = compress_all(model, TOKENS[:1])[0]
    known = codes.indices[0, codes.mask[0]]
    torch.manual_seed(0)
    found = generate_codes(model, TOKENS[0], max_codes=len(known) + 4)
    assert torch.equal(found[:-4], known)
    assert len(found.unique()) > 1
    assert torch.equal(generate_codes(model, TOKENS[0], max_codes=3), known[:3])
    # What the top draws from is what it says once the codes have been read.
    prompt = TOKENS[0, :9]
    few = int(compress_all(model, prompt[None])[0].mask.sum())
    torch.manual_seed(1)
    drawn = generate_codes(model, prompt, max_codes=few + 2)
    text = expand(model, drawn, prompt)
    assert torch.equal(text[:9], prompt)
    with pytest.raises(ValueError, match="one level alone"):
        generate_codes(shaken(mode="discrete", num_levels=2), prompt, 5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"mode": "codec"}, "model.mode"),
        ({"quantize": False, "entropy": {"head": "gaussian"}}, "model.quantize"),
        ({"segmentation": {"shift": 0}}, "model.segmentation.shift"),
        ({"lambda_top_lm": 0.0}, "model.lambda_top_lm"),
    ],
)
def test_what_the_mode_cannot_do_without_is_named(options, key):
    with pytest.raises(ValueError, match=key):
        pyramid(**{"mode": "discrete"} | options)


def test_no_text_is_written_from_codes_in_the_other_mode():
    model = shaken()
    for work in (
        lambda: code_length(model, TOKENS),
        lambda: expand(model, torch.zeros(2, 1).long(), TOKENS[0, :1]),
        lambda: generate_codes(model, TOKENS[0], 9),
    ):
        with pytest.raises(ValueError, match="must be discrete"):
            work()


def test_reconstruction_scores_every_token_by_its_own_code():
    model = shaken(mode="discrete", num_levels=1)
    climbs, topmost = model.climb(model.read(TOKENS, None), {}, None)
    hidden, _ = model.descend(climbs, model.speak(topmost, None), topmost, own=True)
    spent = token_costs(hidden, model.head, climbs[0].symbols).nats.sum(1)
    torch.testing.assert_close(code_length(model, TOKENS)["tokens"], spent)
    assert list(model.reconstruct(TOKENS).output.codes) == ["levels.0.compressor.quantizer"]
    assert shaken(num_levels=1).reconstruct(TOKENS) is None
