"""Texts with their segments, as a page and in plain characters."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from crystalline.interpret.buckets import bucket_table
from crystalline.interpret.code_pages import code_pages
from crystalline.interpret.reading import Reading, SiteReading
from crystalline.interpret.segment_overlay import overlay_html, overlay_text, pieces
from crystalline.tokenizer import ByteTokenizer
from tests.crystalline.interpret.planted import segmented, site_of

READING = segmented([["the ", "cat ", "the ", "~c"], ["<b>&\n", '"the" ']], [3, 5, 3, 12, 3])


class Parsed(HTMLParser):
    """What a browser would show, and the hover texts of spans."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.titles: list[tuple[str, str]] = []
        self.hues: list[str] = []
        self.lines: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        assert not {"src", "href", "onclick"} & set(found)
        if tag == "p":
            self.lines.append("")
        if tag == "span":
            self.titles.append((str(found["title"]), str(found["style"])))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] in ("p", "span"):
            self.lines[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self.tags.append("")


def page_of(reading: Reading, windows: int = 9) -> Parsed:
    table = bucket_table(reading, ByteTokenizer())
    return Parsed(overlay_html(reading, table, ByteTokenizer(), windows=windows))


def test_the_page_shows_the_text_and_nothing_in_it_is_markup():
    page = page_of(READING)
    assert page.lines == ["the cat the c", '<b>&␊\n"the" ']
    assert set(page.tags) <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "div", "p", "span"),
        "",
    }
    assert page.tags.count("span") == 5  # what is in no segment has none


def test_a_code_has_one_colour_and_tells_its_number_and_commonest_string():
    page = page_of(READING)
    titles = [title for title, _ in page.titles]
    assert titles[0] == titles[2] == titles[4] == "code 3: mostly 'the ', 2 of 3"
    assert titles[3] == "code 12: mostly '<b>&\\n', 1 of 1"
    colours = [style for _, style in page.titles]
    assert colours[0] == colours[2] == colours[4]
    assert len(set(colours)) == 3


def test_only_the_first_windows_and_sites_with_segments_are_shown():
    READING.sites["fixed"] = site_of([0] * len(READING.tokens))
    try:
        assert page_of(READING, windows=1).lines == ["the cat the c"]
        assert "fixed" not in overlay_text(READING, ByteTokenizer(), windows=9)
    finally:
        del READING.sites["fixed"]


def test_every_level_of_codes_is_named():
    reading = segmented([["ab", "c"]], [[1, 2], [1, 0]])
    assert (
        page_of(reading).titles[0][0] == "code 1: mostly 'ab', 1 of 2\ncode 2: mostly 'ab', 1 of 1"
    )
    assert "ab₁.₂│c₁.₀│" in overlay_text(reading, ByteTokenizer(), windows=1)


def test_the_plain_text_has_codes_and_bars():
    text = overlay_text(READING, ByteTokenizer(), windows=9)
    assert "WINDOW 1\ns\n  the ₃│cat ₅│the ₃│c\n" in text
    assert text.endswith('WINDOW 2\ns\n  <b>&␊₁₂│"the" ₃│\n')


def test_pieces_make_up_the_window_even_where_segments_hold_nothing_new():
    tokens = np.frombuffer(b"abcdef", dtype=np.uint8).astype(np.int64)
    starts = np.zeros(6, dtype=bool)
    starts[0] = True
    site = SiteReading(
        np.array([[4], [5], [6]], dtype=np.int32),
        np.array([1, 2, 3]),
        np.array([2, 2, 4]),
        8,
        False,
        segments=True,
    )
    found = pieces(Reading(tokens, starts, {"s": site}), "s", 0, 6, ByteTokenizer())
    assert found == [("a", ()), ("bc", ((0, 4),)), ("de", ((0, 6),)), ("f", ())]


def test_each_code_has_a_page_with_strings_entropy_and_places():
    pages = code_pages(READING, bucket_table(READING, ByteTokenizer()), ByteTokenizer(), places=2)
    first, *others = pages.split("\ncode ")[1:]
    assert first.startswith("3: 3 segments, 2 strings, purity 0.67, 0.92 bits\n")
    lines = first.splitlines()
    assert lines[1].strip() == '"the " 2  "\\"the\\" " 1'
    assert lines[2].strip() == "[the ]cat the c"
    assert lines[3].strip() == '<b>&\\n["the" ]'
    assert [other.split(":")[0] for other in others] == ["5", "12"]
    assert pages.startswith("s level 0 (")


def test_models_without_segments_have_no_pages():
    reading = segmented([["ab", "c"]], [0, 1])
    fixed = Reading(reading.tokens, reading.window_start, {"fixed": site_of([0, 1, 2])})
    assert code_pages(fixed, bucket_table(fixed, ByteTokenizer()), ByteTokenizer()) == ""
