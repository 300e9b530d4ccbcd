"""Edits do what they say at the positions they name, in full passes and through the cache."""

import pytest
import torch

from crystalline.contract import Choice, Codes
from crystalline.errors import UserError
from crystalline.interpret.interventions import (
    Edited,
    activate,
    activations,
    clamp,
    clamp_rows,
    compose,
    deactivate,
    merge,
    patch,
)
from crystalline.interpret.sites import Code, Site, checked, find_sites, site_positions
from crystalline.sampling import sample
from tests.model_zoo import VOCAB, build
from tests.selection import often
from tests.tiny_models import Plain, RunningMean

BUILDS = ("ziggurat_1", "ziggurat_2", "ziggurat_3", "ziggurat_source", "ziggurat_stream")
BUILDS = (*BUILDS, "ziggurat_add", "ziggurat_gate", "ziggurat_xattn")
BUILDS = (*BUILDS, "crystalline", "crystalline_soft", "codebook_features")
LEVELS = Site("a", 6, 2, shared=False, span=1)
TOP = Site("b", 6, 3, shared=True, span=1)


def tokens(rows: int = 3, length: int = 13) -> torch.Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def of_last_book(site: Site, indices: torch.Tensor) -> torch.Tensor:
    return indices if site.shared else indices[..., -1:]


def choice(site: Site, start: int = 0, length: int = 5) -> Choice:
    """Random scores; without some codes, the best of the others."""
    random = torch.Generator().manual_seed(2)
    scores = torch.randn(2, length, site.num_books, site.codebook_size, generator=random)

    def without(banned):
        left = scores.masked_fill(banned, -torch.inf)
        return left[..., 0, :].topk(site.k).indices if site.shared else left.argmax(-1)

    nothing = torch.zeros(site.num_books, site.codebook_size, dtype=torch.bool)
    return Choice(without(nothing), torch.arange(start, start + length), without)


@pytest.fixture(
    params=often(
        BUILDS,
        "ziggurat_2",
        "ziggurat_stream",
        "ziggurat_xattn",
        "crystalline",
        "codebook_features",
    )
)
def model(request):
    return build(request.param).eval()


@torch.no_grad()
def test_patching_a_run_with_its_own_codes_changes_no_bit(model):
    clean = model(tokens(), codes=True)
    sites = find_sites(model)
    assert list(sites) == list(clean.codes)
    edits = {name: patch(sites[name], codes.indices) for name, codes in clean.codes.items()}
    edited = model(tokens(), edits=edits, codes=True)
    assert torch.equal(edited.logits, clean.logits)


@torch.no_grad()
def test_deactivation_keeps_k_indices_and_never_takes_the_banned_codes(model):
    clean = model(tokens(), codes=True).codes
    for site in find_sites(model).values():
        before = clean[site.name].indices
        banned = of_last_book(site, before).unique()[:3]
        edits = {site.name: deactivate(site, banned.tolist(), level=site.num_books - 1)}
        found = model(tokens(), edits=edits, codes=True).codes[site.name].indices
        assert found.shape == before.shape
        assert not torch.isin(of_last_book(site, found), banned).any()
        kept = ~torch.isin(of_last_book(site, before), banned).any(-1)
        assert torch.equal(found[kept], before[kept])


@torch.no_grad()
@pytest.mark.parametrize(
    "positions", [pytest.param(None, marks=pytest.mark.slow), torch.tensor([2, 5])]
)
def test_edits_reach_cached_positions(model, positions):
    edits = merge(
        *({site.name: activate(site, 3, (0,), positions)} for site in find_sites(model).values())
    )
    whole = model(tokens(), edits=edits).logits
    cache = model.init_cache(3)
    steps = [model(part, edits=edits, cache=cache).logits for part in tokens().split(1, dim=1)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-5)
    cache, parts = model.init_cache(3), tokens().split((4, 1, 8), dim=1)
    steps = [model(part, edits=edits, cache=cache).logits for part in parts]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-5)
    clean = model(tokens()).logits
    first = 0 if positions is None else 2
    assert torch.equal(whole[:, :first], clean[:, :first])
    changed = (whole != clean).any(-1).any(0)
    assert changed[first]
    assert changed[first + 1 :].any()  # a cached position's edit still acts on later ones


@torch.no_grad()
def test_a_clamp_during_generation_equals_an_edited_pass_over_the_result(model):
    sites = find_sites(model)
    edits = clamp(sites, [Code(name, site.num_books - 1, 5) for name, site in sites.items()])
    options = {"max_new_tokens": 9, "temperature": 0}
    drawn = torch.stack(list(sample(Edited(model, edits), tokens(), **options)), 1)
    text = torch.cat([tokens(), drawn], 1)
    logits = model(text, edits=edits).logits
    assert torch.equal(logits[:, 12:-1].argmax(-1), drawn)
    assert not torch.equal(logits, model(text).logits)


@torch.no_grad()
def test_arms_in_the_rows_of_one_batch_are_as_arms_alone(model):
    sites = find_sites(model)
    names = list(sites)
    arms = [[Code(name, 0, 5) for name in names], [], [Code(names[0], 0, 2), Code(names[-1], 0, 3)]]
    edits = clamp_rows(sites, arms)
    together = model(tokens().repeat(3, 1), edits=edits).logits.chunk(3)
    for codes, logits in zip(arms, together, strict=True):
        alone = merge(*activations(sites, codes))
        expected = model(tokens(), edits=alone).logits
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="8 rows are not 3 equal parts"):
        model(tokens(8), edits=edits)


def test_activation_takes_the_last_slot_or_those_named_at_the_positions_named():
    found = activate(TOP, 4)(choice(TOP))
    assert bool((found[..., 2] == 4).all())
    assert torch.equal(found[..., :2], choice(TOP).indices[..., :2])
    assert bool((activate(TOP, 4, slots=None)(choice(TOP)) == 4).all())
    at = torch.tensor([[11], [13]])  # rows differ
    given = choice(LEVELS, start=10)
    found = activate(LEVELS, 0, (0,), at)(given)
    where = (found != given.indices).any(-1).nonzero().tolist()
    assert set(map(tuple, where)) <= {(0, 1), (1, 3)}
    assert found[0, 1, 0] == found[1, 3, 0] == 0


def test_a_patch_copies_from_other_positions_of_one_row_or_of_each():
    source = torch.arange(6).view(1, 3, 2)
    given = choice(LEVELS, start=4)
    found = patch(LEVELS, source, torch.tensor([5, 6]), torch.tensor([2, 0]))(given)
    assert found[:, 1:3].tolist() == [[[4, 5], [0, 1]]] * 2
    assert torch.equal(found[:, 3:], given.indices[:, 3:])
    rows = torch.stack([source[0], source[0].flip(0)])
    found = patch(LEVELS, rows, torch.tensor([[4], [8]]), torch.tensor([[0], [0]]))(given)
    assert (found[0, 0].tolist(), found[1, 4].tolist()) == ([0, 1], [4, 5])
    assert torch.equal(found[0, 1:], given.indices[0, 1:])
    assert patch(LEVELS, source)(choice(LEVELS))[0, :3].tolist() == source[0].tolist()


def test_edits_are_composed_in_order_and_the_later_one_wins():
    first, last = activate(LEVELS, 1, (0,)), activate(LEVELS, 2, (0,))
    assert bool((compose(first, last)(choice(LEVELS))[..., 0] == 2).all())
    assert bool((merge({"a": last}, {"a": first})["a"](choice(LEVELS))[..., 0] == 1).all())
    assert merge({"a": first}, {"b": last}).keys() == {"a", "b"}


@pytest.mark.parametrize("site", [LEVELS, TOP])
def test_deactivations_never_bring_back_each_others_codes(site):
    both = deactivate(site, [1, 4])(choice(site))
    inner = both if site.shared else both[..., 0]
    assert not torch.isin(inner, torch.tensor([1, 4])).any()
    for order in ([1], [4]), ([4], [1]):
        edits = [deactivate(site, codes) for codes in order]
        assert torch.equal(compose(*edits)(choice(site)), both)


def test_a_code_is_gone_when_it_is_deactivated_after_its_activation_but_not_before():
    on, off = activate(LEVELS, 3, (0,)), deactivate(LEVELS, [3])
    assert not (compose(on, off)(choice(LEVELS))[..., 0] == 3).any()
    assert bool((compose(off, on)(choice(LEVELS))[..., 0] == 3).all())
    other = activate(LEVELS, 2, (1,))
    kept = compose(other, off)(choice(LEVELS))  # what another edit has put in stays
    assert bool((kept[..., 1] == 2).all())


def test_codes_of_a_shared_book_take_its_slots_from_the_last_one_on():
    sites = {"a": LEVELS, "b": TOP}
    codes = [Code("b", 0, 4), Code("b", 0, 1), Code("a", 1, 2)]
    joint = clamp(sites, codes)
    assert joint["b"](choice(TOP))[..., 1:].unique(dim=1).tolist() == [[[1, 4]]] * 2
    assert bool((joint["a"](choice(LEVELS))[..., 1] == 2).all())
    alone = activations(sites, codes)[1]["b"](choice(TOP))
    assert bool((alone[..., 1] == 1).all())  # the slot that it has beside the others
    with pytest.raises(UserError, match="a has no room left at level 1 for code 5"):
        clamp(sites, [Code("a", 1, 2), Code("a", 1, 5)])
    with pytest.raises(UserError, match="b has no room left"):
        clamp(sites, [Code("b", 0, code) for code in range(4)])


def test_codes_may_be_held_at_the_positions_of_the_first_tokens_alone():
    sites = {"a": LEVELS._replace(span=2), "b": TOP}
    edits = clamp_rows(sites, [[Code("a", 1, 5), Code("b", 0, 4)]], tokens=3)
    found, given = edits["a"](choice(LEVELS)), choice(LEVELS).indices
    assert bool((found[:, :2, 1] == 5).all())  # tokens 0 and 1, 2 and 3
    assert torch.equal(found[:, 2:], given[:, 2:])
    assert torch.equal(found[..., 0], given[..., 0])
    found, given = edits["b"](choice(TOP)), choice(TOP).indices
    assert bool((found[:, :3, 2] == 4).all())
    assert torch.equal(found[:, 3:], given[:, 3:])
    late = edits["b"](choice(TOP, start=2))
    assert bool((late[:, 0, 2] == 4).all())
    assert torch.equal(late[:, 1:], choice(TOP, start=2).indices[:, 1:])
    with pytest.raises(UserError, match="positions of b cover different numbers of tokens"):
        clamp_rows({"b": TOP._replace(varies=True)}, [[Code("b", 0, 4)]], tokens=3)


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (Code("c", 0, 0), "site=c: there is no such site; valid: a, b"),
        (Code("a", 2, 0), "level=2: a has 2"),
        (Code("b", 1, 0), "level=1: b has 1"),
        (Code("a", 0, 6), r"code=6: codes of a lie in \[0, 6\)"),
        (Code("a", 0, -1), r"code=-1: codes of a lie in \[0, 6\)"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(code, line):
    with pytest.raises(UserError, match=line):
        checked({"a": LEVELS, "b": TOP}, [code])


def test_edits_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="slots"):
        activate(LEVELS, 0, (2,))
    with pytest.raises(UserError, match="2 would be left in b, which chooses 3"):
        deactivate(TOP, range(4))
    with pytest.raises(UserError, match="a patch of a needs 2 indices a position"):
        patch(LEVELS, torch.zeros(1, 4, 3, dtype=torch.int64))
    with pytest.raises(UserError, match="a patch of a"):
        patch(LEVELS, torch.full((1, 4, 2), 6))
    assert find_sites(Plain()) == {}
    with pytest.raises(UserError, match="nothing in this model is discrete"):
        checked(find_sites(Plain()), [Code("a", 0, 0)])


def test_a_token_is_covered_by_the_position_that_has_just_seen_it():
    pairs = Codes(torch.zeros(2, 3, 1, dtype=torch.int64), 4, span=2)
    assert site_positions(pairs, torch.tensor([0, 1, 4, 6])).tolist() == [[0, 0, 2, -1]] * 2
    found = RunningMean().eval()(torch.tensor([[0, 1, 2, 3, 4, 6, 1]]), codes=True).codes
    segments = found["segments"]  # they end at tokens 0, 3 and 5
    assert site_positions(segments, torch.tensor([0, 1, 3, 4, 6])).tolist() == [[0, 1, 1, 2, -1]]
