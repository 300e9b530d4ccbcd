"""Where segments begin: golden cases, and the same answer however symbols arrive."""

import pytest
import torch

from crystalline.models.abstractinator.options import Segmentation
from crystalline.models.abstractinator.segmenter import Cut, Segmenter, spacelike_bytes
from crystalline.models.abstractinator.symbols import Symbols

END = 256


def symbols(tokens: torch.Tensor, real: torch.Tensor | None = None) -> Symbols:
    at = torch.arange(tokens.shape[1]).expand_as(tokens)
    real = torch.ones_like(tokens, dtype=torch.bool) if real is None else real
    separator = (tokens == END) & real
    return Symbols(at, real, separator, separator.cumsum(1), at, tokens)


def cut(
    rule: Segmentation, bits: list[float] | None, tokens: list[int] | None = None, length: int = 64
) -> Cut:
    tokens = tokens or [1] * len(bits or [])
    segmenter = Segmenter(rule, length, 257)
    given = None if bits is None else torch.tensor([bits])
    state = segmenter.init_state(1, torch.device("cpu"))
    return segmenter(symbols(torch.tensor([tokens])), given, state)


def seed_rule(**options) -> Segmentation:
    """The seed's own: nats or bits do not matter, and the symbol before the hard one is cut off."""
    return Segmentation(
        **{"rule": "relative", "shift": 0, "max_length": None, "min_mean_length": 1.0} | options
    )


@pytest.mark.parametrize(
    ("entropy", "options", "segments"),
    [
        ([1.0, 1.3, 1.7, 1.65, 2.0], {"delta_bits": 0.2}, [0, 1, 2, 2, 3]),
        (
            [0.5, 1.1, 1.2, 0.9, 1.3],
            {"rule": "both", "delta_bits": 0.2, "theta_bits": 1.0},
            [0, 1, 2, 2, 3],
        ),
        ([1.0, 1.1, 1.4, 1.45], {"delta_bits": 0.3}, [0, 0, 0, 0]),
        ([3.0, 2.5, 2.0, 1.0], {"delta_bits": 0.2}, [0, 0, 0, 0]),
        ([1.0], {}, [0]),
    ],
)
def test_published_cases(entropy, options, segments):
    found = cut(seed_rule(**options), entropy)
    assert found.segment[0].tolist() == segments
    assert torch.equal(found.aim, found.segment)
    later = cut(seed_rule(shift=1, **options), entropy)
    assert later.segment[0].tolist() == [0, *segments[:-1]]  # a rise cuts behind its own symbol
    assert later.aim[0].tolist() == segments


@pytest.mark.parametrize("rule", ["relative", "global", "both", "space", "fixed"])
@pytest.mark.parametrize("shift", [0, 1])
def test_nothing_is_cut_into_nothing(rule, shift):
    segmenter = Segmenter(Segmentation(rule, 0.2, 1.0, max_length=4, shift=shift), 64, 257)
    state = segmenter.init_state(2, torch.device("cpu"))
    found = segmenter(symbols(torch.zeros(2, 0, dtype=torch.int64)), torch.zeros(2, 0), state)
    assert found.segment.shape == found.aim.shape == (2, 0)
    assert state.begun.tolist() == [0, 0]


def test_the_longest_segment_counts_from_the_last_cut():
    found = cut(
        Segmentation("relative", max_length=3, min_mean_length=2.0),
        [1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    )
    assert found.segment[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert found.aim[0].tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert found.offset[0].tolist() == [1, 2, 0, 1, 2, 0, 1, 2]
    found = cut(
        Segmentation("relative", max_length=3, min_mean_length=2.0), [1.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    )
    assert found.aim[0].tolist() == [0, 1, 1, 1, 2, 2]


def test_global_cuts_after_every_doubtful_symbol():
    found = cut(
        Segmentation("global", theta_bits=1.0, min_mean_length=2.0), [0.5, 1.5, 1.2, 0.1, 1.0, 2.0]
    )
    assert found.segment[0].tolist() == [0, 0, 1, 2, 2, 2]
    assert found.aim[0].tolist() == [0, 1, 2, 2, 2, 3]


def test_space_cuts_after_words():
    text = list("So, dünn 2x\n".encode())
    found = cut(Segmentation("space", min_mean_length=1.0), None, text)
    parts: dict[int, bytes] = {}
    for byte, segment in zip(text, found.segment[0].tolist(), strict=True):
        parts[segment] = parts.get(segment, b"") + bytes([byte])
    assert list(parts.values()) == [b"So,", b" d\xc3", b"\xbcnn ", b"2x\n"]
    assert not spacelike_bytes(300)[256:].any()


def test_fixed_cuts_by_count():
    found = cut(Segmentation("fixed", max_length=2, min_mean_length=2.0), None, [5] * 5)
    assert found.segment[0].tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("shift", [0, 1])
def test_a_document_ends_its_segment(shift):
    rule = Segmentation("fixed", max_length=3, shift=shift, min_mean_length=1.0)
    found = cut(rule, None, [5, END, 7, 7, 7, 7, END, END, 7])
    assert found.segment[0].tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 4]


def test_segments_for_which_there_is_no_room_join_the_last_one():
    rule = Segmentation("fixed", max_length=1, min_mean_length=2.0)
    found = cut(rule, None, [5] * 8, length=8)
    assert found.segment[0].tolist() == [0, 1, 2, 3, 3, 3, 3, 3]
    assert found.aim[0].tolist() == [1, 2, 3, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        {"rule": "relative", "delta_bits": 0.2, "max_length": 4},
        {"rule": "both", "delta_bits": 0.5, "theta_bits": 1.2, "max_length": None},
        {"rule": "global", "theta_bits": 1.3, "max_length": 5, "min_mean_length": 4.0},
        {"rule": "space", "max_length": 7},
        {"rule": "fixed", "max_length": 3},
    ],
)
def test_symbols_one_by_one_are_cut_as_the_whole_sequence_is(options, shift):
    generator = torch.Generator().manual_seed(0)
    batch, length = 3, 41
    tokens = torch.randint(20, 60, (batch, length), generator=generator)
    tokens[torch.rand(batch, length, generator=generator) < 0.05] = END
    bits = 2 * torch.rand(batch, length, generator=generator)
    segmenter = Segmenter(Segmentation(shift=shift, **options), length, 257)
    whole = segmenter(symbols(tokens), bits, segmenter.init_state(batch, tokens.device))
    for sizes in ([1] * length, [2, 1, 17, 21]):
        state = segmenter.init_state(batch, tokens.device)
        parts = [
            segmenter(symbols(part), some, state)
            for part, some in zip(tokens.split(sizes, 1), bits.split(sizes, 1), strict=True)
        ]
        for name in ("segment", "aim", "offset"):
            joined = torch.cat([getattr(part, name) for part in parts], 1)
            assert torch.equal(joined, getattr(whole, name)), name
        assert torch.equal(state.finished, whole.aim[:, -1])


@pytest.mark.parametrize("shift", [0, 1])
def test_padding_changes_nothing(shift):
    generator = torch.Generator().manual_seed(1)
    bits = torch.rand(2, 12, generator=generator)
    tokens = torch.full((2, 12), 65)
    segmenter = Segmenter(Segmentation("relative", shift=shift, max_length=4), 64, 257)
    whole = segmenter(symbols(tokens), bits, segmenter.init_state(2, tokens.device))
    state = segmenter.init_state(2, tokens.device)
    done = torch.zeros(2, dtype=torch.int64)
    found = torch.zeros(2, 12, dtype=torch.int64)
    for counts in ([3, 0], [1, 5], [4, 4], [4, 3]):
        count = torch.tensor(counts)
        at = done[:, None] + torch.arange(5)
        real = torch.arange(5) < count[:, None]
        rows = torch.arange(2)[:, None]
        some = torch.where(real, bits[rows, at.clamp(max=11)], 9.0)
        part = segmenter(symbols(tokens[:, :5], real), some, state)
        found[rows.expand_as(at)[real], at[real]] = part.aim[real]
        done = done + count
    assert torch.equal(found, whole.aim)


@pytest.mark.parametrize("rule", ["relative", "both", "global"])
def test_the_threshold_moves_until_segments_have_the_wanted_length(rule):
    options = Segmentation(
        rule=rule, delta_bits=0.0, theta_bits=1.9 if rule == "both" else 1.0, mean_length=5.0
    )
    part = Segmenter(options, 200, None)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(150):
        bits = 2 * torch.rand(8, 200, generator=generator)
        tokens = torch.ones(8, 200, dtype=torch.int64)
        made = part(symbols(tokens), bits, part.init_state(8, bits.device))
        found.append(8 * 200 / float((made.segment.amax(1) + 1).sum()))
        part.end_round(torch.tensor(False))
    assert found[0] < 4
    assert sum(found[-20:]) / 20 == pytest.approx(5.0, abs=0.25)
    moved = part.threshold.clone()
    part.eval()(symbols(tokens), bits, part.init_state(8, bits.device))
    part.end_round(torch.tensor(False))
    part.train()(symbols(tokens), bits, part.init_state(8, bits.device))
    part.end_round(torch.tensor(True))
    assert part.threshold == moved
