"""Mode discrete: what codes cost, what they are worth, and the way back from them."""

import pytest
import torch

from crystalline.models.abstractinator.codec import (
    code_length,
    compress_all,
    expand,
    generate_bytes,
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
    text = expand(model, codes, first=4)
    assert 9 <= len(text) <= CONTEXT

    def told(choice):
        wanted = torch.cat([codes, codes.new_zeros(len(text), 1)])
        return wanted[choice.positions].expand_as(choice.indices)

    edits = {"levels.0.compressor.quantizer": told}
    climbs, topmost = model.climb(model.read(text[None], None), edits, None)
    hidden, _ = model.descend(climbs, model.speak(topmost, None), topmost, own=True)
    assert torch.equal((hidden @ model.head.T).argmax(-1)[0, :-1], text[1:])
    assert int(climbs[0].segments.finished.sum()) == 9 or len(text) == CONTEXT


def test_a_two_part_description_is_scored_in_order():
    model = shaken(mode="discrete", num_levels=2, document_end=0)
    spent = code_length(model, TOKENS)
    assert set(spent) == {"tokens", "codes"}
    assert (spent["codes"] > 0).all()
    codes = compress_all(model, TOKENS)[0]
    kept = int(codes.ends[0, codes.mask[0]][2]) + 1  # three segments
    changed = TOKENS.clone()
    changed[:, kept:] = (changed[:, kept:] + 3) % VOCAB
    again = compress_all(model, changed)[0]
    assert torch.equal(again.indices[0, :3], codes.indices[0, :3])
    assert code_length(model, changed)["tokens"][0] != spent["tokens"][0]


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
    again = generate_bytes(model, TOKENS[:, :5], 3, temperature=0.0)
    assert torch.equal(again, generate_bytes(model, TOKENS[:, :5], 3, temperature=0.0))


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
        lambda: expand(model, torch.zeros(2, 1).long(), 0),
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
