"""Labels that codes are compared with: what kind of token a position ends in, and what follows."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np

from crystalline.interpret.reading import Reading, SiteReading
from crystalline.tokenizer import Tokenizer

CLASSES = ("word_start", "continuation", "digit", "punctuation", "capitalised", "space", "special")
"""Names of the token classes, in the order of their numbers."""

UNDEFINED = -1
"""Label of a position that has none (nothing follows the last token of a window)."""

_WORD_START, _CONTINUATION, _DIGIT, _PUNCTUATION, _CAPITALISED, _SPACE, _SPECIAL = range(7)


@dataclass(frozen=True)
class TokenTraits:
    """What can be said about each token id by itself; arrays of length V."""

    kind: np.ndarray
    """int64 class, where no letter counts as the start of a word unless a space comes with it."""
    ends_in_word: np.ndarray
    """bool: the last character is a letter, a digit, an apostrophe or part of a character."""
    has_punctuation: np.ndarray
    ends_sentence: np.ndarray
    """bool: contains a full stop, an exclamation mark or a question mark."""


def token_traits(tokenizer: Tokenizer) -> TokenTraits:
    """Look at every token of `tokenizer` once."""
    texts = [
        tokenizer.token_bytes(token).decode("utf-8", errors="replace")
        for token in range(tokenizer.vocab_size)
    ]
    return TokenTraits(
        np.array([_kind(text) for text in texts], dtype=np.int64),
        np.array([text != "" and (text[-1].isalnum() or text[-1] in "'’�") for text in texts]),
        np.array([any(_is_punctuation(char) for char in text) for text in texts]),
        np.array([any(char in ".!?" for char in text) for text in texts]),
    )


def token_classes(reading: Reading, traits: TokenTraits) -> np.ndarray:
    """Class (N,) of each token read: indices into `CLASSES`.

    A token of letters is a word start if a space comes with it or if the token before it in the
    same window does not end inside a word; so the class of a byte depends on its context.
    """
    kinds = traits.kind[reading.tokens]
    inside_word = np.zeros(len(kinds), dtype=bool)
    inside_word[1:] = traits.ends_in_word[reading.tokens[:-1]]
    inside_word[reading.window_start] = False
    return np.where((kinds == _CONTINUATION) & ~inside_word, _WORD_START, kinds)


def site_labels(
    reading: Reading, site: SiteReading, traits: TokenTraits, classes: np.ndarray
) -> dict[str, np.ndarray]:
    """Labels (P,) int64 of a site's positions, `UNDEFINED` where there is none.

    `token_class` and `token` are about the last token that a position covers, `next_class` and
    `next_token` about the one after it. Sites whose positions cover several tokens also get
    `contains_punctuation` and `sentence_boundary` (one before the last token's end, inside).
    """
    following = np.minimum(site.last + 1, len(reading.tokens) - 1)
    known = (following > site.last) & ~reading.window_start[following]
    labels = {
        "token_class": classes[site.last],
        "token": reading.tokens[site.last],
        "next_class": np.where(known, classes[following], UNDEFINED),
        "next_token": np.where(known, reading.tokens[following], UNDEFINED),
    }
    if (site.last > site.first).any():
        labels["contains_punctuation"] = any_in_span(
            traits.has_punctuation[reading.tokens], site.first, site.last
        )
        labels["sentence_boundary"] = any_in_span(
            traits.ends_sentence[reading.tokens], site.first, site.last
        )
    return labels


def any_in_span(flags: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Whether (1 or 0) any of the flags first..last, both included, is set."""
    counts = np.concatenate([[0], np.cumsum(flags)])
    return (counts[last + 1] > counts[first]).astype(np.int64)


def _kind(text: str) -> int:
    if text == "":
        return _SPECIAL
    visible = text.lstrip()
    if visible == "":
        return _SPACE
    if visible[0].isdigit():
        return _DIGIT
    if visible[0].isupper():
        return _CAPITALISED
    if _is_punctuation(visible[0]):
        return _PUNCTUATION
    return _WORD_START if len(visible) < len(text) else _CONTINUATION


def _is_punctuation(char: str) -> bool:
    """Punctuation and symbols; the replacement character stands for a part of a letter."""
    return char != "�" and unicodedata.category(char)[0] in "PS"
