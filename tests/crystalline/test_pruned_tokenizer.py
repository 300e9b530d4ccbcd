"""A vocabulary of which a part is left: lossless, and as before where all tokens are kept."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers

from crystalline.pruned_tokenizer import PrunedTokenizer, kept
from crystalline.tokenizer import (
    EOT,
    BPETokenizer,
    ByteTokenizer,
    byte_characters,
    tokenizer_from_json,
)
from datamodules.documents import Document, Split
from datamodules.tokenizer_builders import TrainedBPE

TEXT = "The cat sat on the mat. The dog saw the cat, and the quick brown fox jumps.\n" * 20
PART = "The cat saw the mat.\n"
LIKE_IT = st.text(st.sampled_from([*sorted(set(TEXT)), "é", "漢"]), max_size=40)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    split = Split([Document("a", memoryview(TEXT.encode()))])
    return TrainedBPE(330).build(split, tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="module")
def pruned(base):
    return PrunedTokenizer.of(base, base.encode(PART))


def chain(*merges, literal=()):
    """Bytes and a few merges, in this order of rank."""
    vocabulary = {EOT: 0} | {c: i for i, c in enumerate(byte_characters(), 1)}
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    fast = FastTokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([EOT])
    fast.add_tokens(list(literal))
    return BPETokenizer(fast), vocabulary


def test_kept_tokens_get_ids_without_gaps_in_their_old_order(base, pruned):
    assert pruned.original == sorted(pruned.original)
    assert len(pruned.original) == pruned.vocab_size < base.vocab_size
    for new, old in enumerate(pruned.original):
        assert pruned.token_bytes(new) == base.token_bytes(old)
    assert pruned.original[pruned.eot_id] == base.eot_id
    assert kept(base, base.encode(PART)) == pruned.original
    bytes_left = {pruned.token_bytes(id_) for id_ in range(pruned.vocab_size)}
    assert bytes_left >= {bytes([byte]) for byte in range(256)}


def test_a_text_of_kept_tokens_is_cut_as_before(base, pruned):
    assert [pruned.original[id_] for id_ in pruned.encode(PART)] == base.encode(PART)


@given(text=st.one_of(st.text(), LIKE_IT))
@settings(max_examples=20, deadline=None)
def test_every_text_survives(pruned, text):
    ids = pruned.encode(text)
    assert pruned.decode(ids) == text
    assert pruned.eot_id not in ids
    assert all(id_ < pruned.vocab_size for id_ in ids)
    assert pruned.encode_bytes([text.encode(), b"", text.encode()]) == [ids, [], ids]


@given(text=LIKE_IT, kept_text=LIKE_IT)
@settings(max_examples=20, deadline=None)
def test_whatever_is_kept_a_text_of_it_is_cut_as_before(base, text, kept_text):
    pruned = PrunedTokenizer.of(base, base.encode(text + "\n" + kept_text))
    if set(base.encode(text)) <= set(pruned.original):
        assert [pruned.original[id_] for id_ in pruned.encode(text)] == base.encode(text)
    assert pruned.decode(pruned.encode(kept_text)) == kept_text


def test_a_token_without_an_id_falls_back_to_the_two_it_was_merged_from():
    base, ids = chain(("b", "c"), ("a", "bc"), ("abc", "d"))
    pruned = PrunedTokenizer.of(base, [ids["abcd"], ids["bc"]])
    assert pruned.inner.vocab_size == pruned.vocab_size + 1  # abc arises on the way to abcd
    tokens = [pruned.token_bytes(id_) for id_ in pruned.encode("abcd abc")]
    assert tokens == [b"abcd", b" ", b"a", b"bc"]


def test_merges_that_lead_nowhere_are_forgotten():
    base, ids = chain(("b", "c"), ("a", "b"))
    pruned = PrunedTokenizer.of(base, [ids["ab"]])
    assert [base.token_bytes(id_) for id_ in base.encode("abc")] == [b"a", b"bc"]
    assert [pruned.token_bytes(id_) for id_ in pruned.encode("abc")] == [b"ab", b"c"]


def test_words_that_are_found_before_merging_are_kept_where_they_occur():
    base, _ = chain(("a", "b"), literal=["<x>", "<y>"])
    pruned = PrunedTokenizer.of(base, base.encode("ab<y>"))
    text = "ab<x><y>ab"
    assert pruned.decode(pruned.encode(text)) == text
    assert b"<y>" in [pruned.token_bytes(id_) for id_ in pruned.encode(text)]
    again = tokenizer_from_json(pruned.to_json())
    assert again.encode(text) == pruned.encode(text)


def test_it_comes_back_from_its_json(pruned):
    again = tokenizer_from_json(pruned.to_json())
    assert again.to_json() == pruned.to_json()
    assert again.encode(TEXT) == pruned.encode(TEXT)
    assert again.vocab_size == pruned.vocab_size
    assert json.loads(pruned.to_json())["kind"] == "pruned"


def test_what_is_pruned_can_be_pruned_again(base, pruned):
    twice = PrunedTokenizer.of(pruned, pruned.encode("The cat"))
    at_once = PrunedTokenizer.of(base, base.encode("The cat"))
    assert twice.original == at_once.original
    assert twice.encode(PART) == at_once.encode(PART)
    assert [pruned.original[i] for i in kept(pruned, pruned.encode("The cat"))] == twice.original


def test_other_tokenizers_cannot_be_pruned():
    with pytest.raises(ValueError, match="only a byte-pair encoding"):
        PrunedTokenizer.of(ByteTokenizer(), [1])
    fast = FastTokenizer(models.BPE(vocab={EOT: 0, "a": 1}, merges=[]))
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([EOT])
    with pytest.raises(ValueError, match="255 of the 256 bytes"):
        PrunedTokenizer.of(BPETokenizer(fast), [1])
