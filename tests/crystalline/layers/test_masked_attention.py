"""Attention under masks: two forms, two backends and a definition, in double precision."""

import pytest
import torch
from torch.nn.functional import layer_norm

from crystalline.layers import latent_attention, masked_attention, masks
from crystalline.layers.attention_form import AttentionForm
from crystalline.layers.masked_attention import attend, attend_plainly
from crystalline.layers.masks import Mask
from crystalline.layers.position_cache import PositionCache

BATCH, LENGTH, WIDTH, HEADS = 2, 21, 16, 2
CPU = torch.device("cpu")
DOCUMENT = torch.tensor([[0] * 9 + [1] * 12, [0] * 4 + [1] * 3 + [2] * 14])
SEGMENT = torch.tensor([sorted([0, 1, 2, 3, 4, 5, 6] * 3)] * 2)
PREDICATES = {
    "causal": masks.causal,
    "window": lambda: masks.sliding_window(3),
    "documents": lambda: masks.all_of(masks.causal(), masks.same(DOCUMENT)),
    "segments": lambda: masks.all_of(masks.sliding_window(4), masks.same(SEGMENT)),
    "either": lambda: masks.any_of(
        masks.sliding_window(0), masks.all_of(masks.causal(), masks.same(DOCUMENT))
    ),
}


def whole(name: str, length: int = LENGTH) -> Mask:
    return Mask(PREDICATES[name](), BATCH, length, length, CPU)


def layer(form: str, **options):
    torch.manual_seed(0)
    return AttentionForm(form, d_latent=8, d_rotary=4, d_query=6).build(
        WIDTH, HEADS, LENGTH, **options
    ).double()  # fmt: skip


def test_predicates_say_who_sees_whom():
    window = Mask(masks.sliding_window(1), 1, 3, 3, CPU).dense[0, 0]
    assert window.int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    first, last = torch.tensor([[0, 1]]), torch.tensor([[0, 2]])
    rows = Mask(masks.between(first, last, offset=1), 1, 2, 4, CPU).dense[0, 0]
    assert rows.int().tolist() == [[0, 1, 0, 0], [0, 0, 1, 1]]
    placed = Mask(masks.causal(torch.tensor([[2, 5]])), 1, 2, 4, CPU).dense[0, 0]
    assert placed.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("name", PREDICATES)
def test_outputs_and_gradients_are_those_of_the_definition(name):
    mask = whole(name)
    q, k, v = (torch.randn(BATCH, HEADS, LENGTH, 4).double().requires_grad_() for _ in range(3))
    fast, plain = attend(q, k, v, mask), attend_plainly(q, k, v, mask)
    torch.testing.assert_close(fast, plain)
    pull = torch.randn_like(fast)
    for a, b in zip(
        torch.autograd.grad(fast, (q, k, v), pull),
        torch.autograd.grad(plain, (q, k, v), pull),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_query_that_sees_nothing_reads_zero_and_passes_no_gradient():
    labels = torch.tensor([[0, 7, 1]]), torch.tensor([[0, 0, 1, 1]])
    mask = Mask(masks.same(*labels), 1, 3, 4, CPU, complete=False)
    q, k, v = torch.randn(1, 1, 3, 4), torch.randn(1, 1, 4, 4), torch.randn(1, 1, 4, 4)
    q.requires_grad_()
    for read in (attend(q, k, v, mask), attend_plainly(q, k, v, mask)):
        assert torch.equal(read[0, 0, 1], torch.zeros(4))
        gradient = torch.autograd.grad(read.sum(), q)[0]
        assert torch.isfinite(gradient).all()
        assert torch.equal(gradient[0, 0, 1], torch.zeros(4))


def in_blocks(q, k, v, mask, backend):
    """FlexAttention uncompiled, which a CPU has without gradients: what its kernels compute."""
    from torch.nn.attention.flex_attention import flex_attention

    assert backend == "flex"
    with torch.no_grad():
        return flex_attention(q.detach(), k.detach(), v.detach(), block_mask=mask.blocks)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", PREDICATES)
@pytest.mark.parametrize("backend", ["sdpa", "flex"])
@pytest.mark.parametrize("form", ["regular", "latent"])
def test_only_what_a_query_sees_can_change_what_it_reads(form, backend, name, monkeypatch):
    attention, mask = layer(form), whole(name)
    attention.backend = backend
    if backend == "flex":
        monkeypatch.setattr(masked_attention, "attend", in_blocks)
        monkeypatch.setattr(latent_attention, "attend", in_blocks)
    x = torch.randn(BATCH, LENGTH, WIDTH).double()
    before = attention(x, mask)
    for changed in range(LENGTH):
        other = x.clone()
        other[:, changed] += 1.0
        same = (attention(other, mask) == before).all(-1)
        sees = mask.dense[:, 0, :, changed].expand(BATCH, -1)
        sees = sees | (torch.arange(LENGTH) == changed)  # a query is its own
        assert torch.equal(same, ~sees), changed


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", PREDICATES)
@pytest.mark.parametrize("form", ["regular", "latent"])
def test_a_layer_is_what_its_formula_says_on_either_backend(form, name, monkeypatch):
    attention, mask = layer(form), whole(name)
    x = torch.randn(BATCH, LENGTH, WIDTH).double()
    weights = dict(attention.named_parameters())

    def heads(values):
        return values.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    if form == "regular":
        keys, v = (x @ weights["key_value.weight"].T).chunk(2, -1)
        q, k = (attention.rotary(heads(y)) for y in (x @ weights["query.weight"].T, keys))
    else:
        latent = layer_norm(x @ weights["compress.weight"].T, (8,), weights["latent_norm.weight"])
        keys, v = (latent @ weights["key_value.weight"].T).chunk(2, -1)
        small = layer_norm(x @ weights["query.0.weight"].T, (6,), weights["query.1.weight"])
        content, placed = heads(small @ weights["query.2.weight"].T).split([8, 4], -1)
        q = torch.cat([content, attention.rotary(placed)], -1)
        shared = attention.rotary((x @ weights["turned_key.weight"].T)[:, None])
        k = torch.cat([heads(keys), shared.expand(-1, HEADS, -1, -1)], -1)
    read = attend_plainly(q, k, heads(v), mask)
    formula = read.transpose(1, 2).flatten(-2) @ weights["out.weight"].T
    torch.testing.assert_close(attention(x, mask), formula)
    attention.backend = "flex"
    monkeypatch.setattr(masked_attention, "attend", in_blocks)
    monkeypatch.setattr(latent_attention, "attend", in_blocks)
    torch.testing.assert_close(attention(x, mask), formula)


def test_blocks_of_masked_keys_before_the_first_visible_one_leave_numbers():
    length, radius = 1500, 5  # more than a block of any kernel
    q, k, v = torch.randn(3, 1, 1, length, 8).unbind()
    mask = Mask(masks.sliding_window(radius), 1, length, length, CPU)
    torch.testing.assert_close(
        attend(q, k, v, mask), attend_plainly(q, k, v, mask), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("form", ["regular", "latent"])
def test_steps_at_each_sequence_s_own_pace_repeat_the_full_pass(form):
    attention = layer(form)
    x = torch.randn(BATCH, LENGTH, WIDTH).double()
    full = attention(x, whole("window"))
    cache, done = PositionCache(BATCH, LENGTH), torch.zeros(BATCH, dtype=torch.int64)
    read = torch.zeros_like(full)
    while (done < LENGTH).any():
        count = torch.minimum(torch.tensor([3, 5]), LENGTH - done)
        at = done[:, None] + torch.arange(5)
        real = torch.arange(5) < count[:, None]
        where = torch.where(real, at, LENGTH)  # padding goes to the place that is never read
        part = x[torch.arange(BATCH)[:, None], at.clamp(max=LENGTH - 1)]
        mask = Mask(masks.sliding_window(3, where), BATCH, 5, LENGTH, CPU, complete=False)
        out = attention(part, mask, positions=where, cache=cache)
        rows = torch.arange(BATCH)[:, None].expand_as(where)
        read[rows[real], where[real]] = out[real]
        done = done + count
    torch.testing.assert_close(read, full)


@pytest.mark.parametrize("form", ["regular", "latent"])
def test_a_memory_is_read_without_positions(form):
    attention = layer(form, cross=True)
    x, memory = torch.randn(1, 3, WIDTH).double(), torch.randn(1, 4, WIDTH).double()
    mask = Mask(lambda b, h, q, k: (k >= 0) & (q >= 0), 1, 3, 4, CPU)
    turned = memory.flip(1)
    torch.testing.assert_close(attention(x, mask, memory), attention(x, mask, turned))
    assert all(
        p.grad is not None
        for p in attention.parameters()
        if attention(x, mask, memory).sum().backward() is None
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"form": "wide"}, "model.attention.form"),
        ({"backend": "fast"}, "model.attention.backend"),
        ({"d_rotary": 3}, "even d_rotary"),
    ],
)
def test_options_that_cannot_be_are_named(options, key):
    with pytest.raises(ValueError, match=key):
        AttentionForm(**options)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["window", "documents", "rows"])
def test_blocks_hold_every_visible_key_and_say_the_same(name):
    from torch.nn.attention.flex_attention import flex_attention

    length = 300  # three blocks, the last one cut
    label = torch.arange(length).expand(BATCH, -1) // torch.tensor([[40], [70]])
    predicate = {
        "window": masks.sliding_window(9),
        "documents": masks.all_of(masks.causal(), masks.same(label)),
        "rows": masks.all_of(masks.between(label - 2, label - 1), masks.causal()),
    }[name]
    mask = Mask(predicate, BATCH, length, length, CPU, complete=name != "rows")
    visited = mask.blocks.to_dense()[:, 0].bool()
    padded = torch.nn.functional.pad(mask.dense[:, 0], (0, 84, 0, 84))
    assert torch.equal(visited, padded.unflatten(2, (3, 128)).unflatten(1, (3, 128)).any(-1).any(2))
    assert mask.blocks.full_kv_num_blocks is None  # no block is visited out of its turn
    q, k, v = torch.randn(3, BATCH, HEADS, length, 8).unbind()
    found = flex_attention(q, k, v, block_mask=mask.blocks)
    torch.testing.assert_close(found, attend(q, k, v, mask), atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["window", "documents", "rows"])
def test_flex_is_the_definition_on_a_gpu_and_the_past_stays_bit_equal(name):
    length, device = 300, torch.device("cuda")
    label = (torch.arange(length) // torch.tensor([[40], [70]])).to(device)

    def mask(label):
        predicate = {
            "window": masks.sliding_window(9),
            "documents": masks.all_of(masks.causal(), masks.same(label)),
            "rows": masks.all_of(masks.between(label - 2, label - 1), masks.causal()),
        }[name]
        return Mask(predicate, BATCH, length, length, device, complete=name != "rows")

    q, k, v = torch.randn(3, BATCH, HEADS, length, 16, device=device).unbind()
    pull = torch.randn_like(q)
    every = [each.requires_grad_() for each in (q, k, v)]
    found, plain = attend(q, k, v, mask(label), "flex"), attend_plainly(q, k, v, mask(label))
    torch.testing.assert_close(found, plain, atol=2e-3, rtol=2e-3)
    for a, b in zip(
        torch.autograd.grad(found, every, pull), torch.autograd.grad(plain, every, pull),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(a, b, atol=5e-3, rtol=5e-3)
    for changed in (1, 130, 200, 299):  # a later label makes a block partly visible
        later = label + (torch.arange(length, device=device) >= changed)
        again = attend(q, k, v, mask(later), "flex")
        assert torch.equal(again[:, :, :changed], found[:, :, :changed])
