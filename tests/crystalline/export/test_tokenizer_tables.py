"""The tables alone encode as the tokenizer does."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from crystalline.export.container import CrystalFile
from crystalline.export.tokenizer_tables import tokenizer_of, tokenizer_tables
from crystalline.pruned_tokenizer import PrunedTokenizer
from crystalline.tokenizer import BPETokenizer, ByteTokenizer, DigitTokenizer, byte_characters
from tests.crystalline.export.runtime.tables import trained

TEXT = "The cat sat on the mat; the dog saw that cat's hat. 'Tis 1234 naïve cafés!\n\n  \t x"
LIKE_IT = st.text(st.sampled_from(sorted(set(TEXT))), max_size=60)
_CUT = pre_tokenizers.ByteLevel(add_prefix_space=False)
_BYTE_OF = {character: byte for byte, character in enumerate(byte_characters())}


class Reference:
    """An encoder that knows the tables of a file and nothing else, but for GPT-2's pattern."""

    def __init__(self, tokenizer):
        self.facts, tensors = tokenizer_tables(tokenizer)
        CrystalFile(self.facts, tensors).to_bytes()  # has a place in a file
        arrays = {name.removeprefix("tokenizer."): t.array() for name, t in tensors.items()}
        self.arrays = arrays
        content = arrays["bytes"].tobytes()
        self.table = [content[start:end] for start, end in pairwise(arrays["offsets"].tolist())]
        self.ids = arrays["ids"].tolist()
        self.merges = [tuple(row) for row in arrays.get("merges", np.zeros((0, 3))).tolist()]
        self.single = {token: row for row, token in enumerate(self.table) if len(token) == 1}

    def encode(self, text):
        pieces = [text.encode()]
        if self.facts["tokenizer.kind"] == "bpe":
            cut = _CUT.pre_tokenize_str(text)
            pieces = [bytes(_BYTE_OF[character] for character in piece) for piece, _ in cut]
        return [id_ for piece in pieces for row in self._merged(piece) for id_ in self._known(row)]

    def _merged(self, piece):
        rows = [self.single[bytes([byte])] for byte in piece]
        for_pair = {}
        for rank, (left, right, result) in enumerate(self.merges):
            for_pair.setdefault((left, right), (rank, result))
        while True:
            found = [(for_pair[p], at) for at, p in enumerate(pairwise(rows)) if p in for_pair]
            if not found:
                return rows
            (_, result), at = min(found, key=lambda each: (each[0][0], each[1]))
            rows[at : at + 2] = [result]

    def _known(self, row):
        if self.ids[row] >= 0:
            return [self.ids[row]]
        left, right = next(m[:2] for m in self.merges if m[2] == row)
        return self._known(left) + self._known(right)


@pytest.fixture(scope="module")
def whole():
    return trained([TEXT] * 9, 300)


@pytest.fixture(scope="module")
def tokenizers(whole):
    return {
        "bytes": ByteTokenizer(),
        "bpe": whole,
        "pruned": PrunedTokenizer.of(whole, whole.encode(TEXT[20:50])[::2]),
    }


@pytest.mark.parametrize("kind", ["bytes", "bpe", "pruned"])
def test_the_tables_encode_as_the_tokenizer_does(tokenizers, kind):
    tokenizer = tokenizers[kind]
    reference = Reference(tokenizer)

    @given(st.one_of(st.text(), LIKE_IT))
    @settings(max_examples=20, deadline=None)
    def check(text):
        assert reference.encode(text) == tokenizer.encode(text)

    check()
    assert reference.encode(TEXT) == tokenizer.encode(TEXT)
    assert reference.facts["tokenizer.eot_id"] == tokenizer.eot_id
    assert reference.table[reference.ids.index(tokenizer.eot_id)] == b""
    known = {id_: reference.table[row] for row, id_ in enumerate(reference.ids) if id_ >= 0}
    assert known == {i: tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}


@pytest.mark.parametrize("kind", ["bytes", "bpe", "pruned"])
def test_the_tables_say_all_of_the_tokenizer(tokenizers, kind):
    again = tokenizer_of(CrystalFile(*tokenizer_tables(tokenizers[kind])))
    assert again.to_json() == tokenizers[kind].to_json()


def test_a_pruned_table_has_what_arises_on_the_way_and_the_old_ids(tokenizers):
    pruned = tokenizers["pruned"]
    reference = Reference(pruned)
    assert -1 in reference.ids
    assert reference.arrays["original"].tolist() == pruned.original
    assert {len(row) for row in reference.merges} == {3}
    assert reference.arrays["merges"].dtype == np.uint16


def test_what_the_runtime_could_not_do_is_left_out(whole):
    assert tokenizer_tables(DigitTokenizer()) == ({}, {})
    for change in ("normalizer", "pre_tokenizer", "added"):
        other = trained([TEXT], 290)
        if change == "normalizer":
            other._fast.normalizer = normalizers.NFC()
        elif change == "pre_tokenizer":
            other._fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        else:
            other._fast.add_tokens(["<x>"])
            other = BPETokenizer(other._fast)
        assert tokenizer_tables(other) == ({}, {}), change
        assert tokenizer_tables(PrunedTokenizer.of(other, other.encode("<x>"))) == ({}, {}), change
