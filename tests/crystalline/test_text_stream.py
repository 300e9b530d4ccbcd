from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from crystalline.text_stream import stream_text
from crystalline.tokenizer import ByteTokenizer


@settings(max_examples=20, deadline=None)
@given(st.text())
def test_pieces_of_any_text_are_whole_characters_that_join_to_the_text(text):
    pieces = list(stream_text(text.encode(), ByteTokenizer()))
    assert "".join(pieces) == text
    assert len(pieces) == len(text)  # one byte at a time: each piece is one character


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 256)))
def test_any_tokens_stream_to_what_decode_gives(tokens):
    tokenizer = ByteTokenizer()
    assert "".join(stream_text(tokens, tokenizer)) == tokenizer.decode(tokens)


def test_a_character_cut_off_at_the_end_is_replaced():
    assert list(stream_text("a–".encode()[:-1], ByteTokenizer())) == ["a", "�"]
