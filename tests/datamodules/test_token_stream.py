import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalline.tokenizer import ByteTokenizer
from datamodules import token_stream
from datamodules.documents import Document, Split
from datamodules.token_stream import load_stream, pieces
from datamodules.tokenizer_builders import TrainedBPE

EOT = ByteTokenizer.eot_id
ROOT = Path(__file__).resolve().parents[2]


def split(*texts):
    return Split([Document(str(i), memoryview(t.encode())) for i, t in enumerate(texts)])


def test_a_stream_opens_with_end_of_text_and_joins_documents_by_it(tmp_path):
    stream = load_stream(split("ab", "", "c"), ByteTokenizer(), tmp_path, "x-train")
    assert stream.ids.tolist() == [EOT, 97, 98, EOT, 99]
    assert (stream.documents, stream.num_bytes) == (2, 3)
    assert isinstance(stream.ids, np.memmap)
    assert stream.ids.dtype == np.uint16


def test_a_stream_is_encoded_once(tmp_path, monkeypatch):
    first = load_stream(split("ab"), ByteTokenizer(), tmp_path, "x-train")
    monkeypatch.setattr(token_stream, "_write", lambda *_: pytest.fail("encoded again"))
    assert load_stream(split("ab"), ByteTokenizer(), tmp_path, "x-train").ids.tolist() == (
        first.ids.tolist()
    )


def test_other_text_split_or_tokenizer_is_another_file(tmp_path):
    bpe = TrainedBPE(260).build(split("aaaa bbbb"), tmp_path / "tokenizers")
    for text, tokenizer, name in [
        ("ab", ByteTokenizer(), "x-train"),
        ("ac", ByteTokenizer(), "x-train"),
        ("ab", ByteTokenizer(), "x-val"),
        ("ab", bpe, "x-train"),
    ]:
        load_stream(split(text), tokenizer, tmp_path, name)
    assert len(list(tmp_path.glob("*.npy"))) == 4


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_damaged_cache_is_made_again(tmp_path, suffix):
    whole = load_stream(split("a" * 500), ByteTokenizer(), tmp_path, "x-train").ids.tolist()
    [path] = tmp_path.glob(f"*{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert load_stream(split("a" * 500), ByteTokenizer(), tmp_path, "x-train").ids.tolist() == whole


def test_a_failure_leaves_nothing_half_written(tmp_path):
    class Broken(ByteTokenizer):
        def encode_bytes(self, pieces):
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        load_stream(split("ab"), Broken(), tmp_path, "x-train")
    assert [p for p in tmp_path.iterdir() if p.suffix != ".lock"] == []


@given(text=st.text(alphabet="ab é\n", max_size=300))
@settings(max_examples=20, deadline=None)
def test_pieces_of_a_long_document_are_whole_characters_and_lose_nothing(text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_stream, "PIECE_BYTES", 16)
        parts = list(pieces(memoryview(text.encode())))
    assert "".join(part.decode() for part in parts) == text
    assert all(len(part) <= 16 for part in parts)


def test_a_document_in_pieces_has_the_tokens_of_the_whole(tmp_path, monkeypatch):
    text = "the cat sat on the mat. \n\n\nthe cat's hat,  and 12 rats!\n" * 30
    tokenizer = TrainedBPE(300).build(split(text), tmp_path / "tokenizers")
    monkeypatch.setattr(token_stream, "PIECE_BYTES", 50)
    monkeypatch.setattr(token_stream, "BLOCK_BYTES", 200)
    stream = load_stream(split(text), tokenizer, tmp_path, "x-train")
    assert stream.ids[1:].tolist() == tokenizer.encode(text)


SCRIPT = """
import sys
from pathlib import Path
from datamodules.documents import Document, Split
from datamodules.token_stream import load_stream
from datamodules.tokenizer_builders import TrainedBPE
split = Split([Document("a", memoryview(b"the cat sat on the mat " * 20000))])
folder = Path(sys.argv[1])
tokenizer = TrainedBPE(300).build(split, folder / "tokenizers")
stream = load_stream(split, tokenizer, folder / "tokens", "x-train")
assert tokenizer.decode(stream.ids[1:].tolist()).encode() == bytes(split[0])
"""


def test_eight_processes_may_start_at_once_on_an_empty_cache(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    jobs = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(8)]
    errors = [job.communicate()[1].decode() for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 8, errors
    left = [p.name for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert sorted(Path(name).suffix for name in left) == [".json", ".json", ".npy"]
