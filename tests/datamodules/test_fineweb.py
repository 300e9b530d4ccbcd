"""Shards as they are published: header, bytes of tokens by hand, windows over two of them."""

import numpy as np
import pytest
import torch

from crystalline.errors import UserError
from crystalline.sentencepiece import SentencePieceTokenizer, read_vocab
from crystalline.tokenizer import tokenizer_from_json
from datamodules.batch import IGNORED
from datamodules.fineweb import FineWebDataModule
from datamodules.shards import read_shard, write_shard

PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "é"]
PIECES += ["▁a", "▁ab", "ba"]
SCORES = [0.0] * 259 + [-1.0 * i for i in range(4)] + [-10.0, -12.0, -11.0]
ID = {piece: i for i, piece in enumerate(PIECES)}
BOS = 1


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "data" / "fineweb" / "sp1024"
    path.mkdir(parents=True)
    rows = [f"{p}\t{s}" for p, s in zip(PIECES, SCORES, strict=True)]
    (path / "fineweb_1024_bpe.vocab").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for name, count in {"train_000000": 300, "train_000001": 200, "val_000000": 90}.items():
        ids = random.integers(3, len(PIECES), count)
        ids[::25] = BOS
        write_shard(path / f"fineweb_{name}.bin", ids)
    return path


def module(folder, **options):
    given = {
        "variant": "sp1024", "data_dir": str(folder.parents[1]), "train_shards": 2, "seq_len": 8,
        "batch_size": 3, "eval_batch_size": 4, "windows": "shuffle", "stride": 4, "seed": 0,
        "cache_dir": str(folder / "cache"), **options,
    }  # fmt: skip
    data = FineWebDataModule(**given)
    data.setup()
    return data


def test_a_shard_is_a_kibibyte_of_header_and_two_bytes_an_id(tmp_path):
    path = tmp_path / "x.bin"
    write_shard(path, np.array([1, 65535, 258]))
    content = path.read_bytes()
    assert content[:12] == bytes.fromhex("88d83401 01000000 03000000")  # 20240520, 1, 3
    assert content[12:1024] == bytes(1012)
    assert content[1024:] == bytes.fromhex("0100 ffff 0201")
    assert read_shard(path).tolist() == [1, 65535, 258]
    assert read_shard(path).dtype == np.uint16
    with pytest.raises(ValueError, match="65536"):
        write_shard(path, np.array([65536]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:-1], "should hold 3 ids"),
        (lambda content: content[:100], "shorter than a header"),
        (lambda content: content[2:] + b"00", "no shard of version 1"),
    ],
)
def test_files_that_are_no_shards_are_refused(tmp_path, change, said):
    path = tmp_path / "x.bin"
    write_shard(path, np.array([1, 2, 3]))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=said):
        read_shard(path)


def test_bytes_of_tokens_by_hand():
    tokenizer = SentencePieceTokenizer(PIECES, SCORES)
    line = ["<s>", "▁ab", "▁a", "ba", "<0xC3>", "<0xA9>", "é", "▁", "</s>", "▁a", "<unk>", "▁"]
    # after <s> the space does not count; " a", "ba", bytes, é, " "; </s> counts nothing and after
    # it the space does not either
    wanted = [2, 2, 2, 1, 1, 2, 1, 0, 1, 0, 0]
    ids = np.array([ID[piece] for piece in line], dtype=np.uint16)
    assert tokenizer.scored_bytes(ids[:-1], ids[1:]).tolist() == wanted


def test_texts_are_merged_by_score_and_come_back_after_a_space(folder):
    tokenizer = read_vocab(folder / "fineweb_1024_bpe.vocab")
    ids = tokenizer.encode("ab aba bé\n€")
    wanted = ["▁ab", "▁a", "ba", "▁", "b", "é", "<0x0A>", "<0xE2>", "<0x82>", "<0xAC>"]
    assert [PIECES[i] for i in ids] == wanted
    assert tokenizer.decode(ids) == " ab aba bé\n€"
    assert tokenizer.encode("") == []
    assert tokenizer.eot_id == BOS
    again = tokenizer_from_json(tokenizer.to_json())
    assert again.encode("ab aba") == tokenizer.encode("ab aba")
    assert again.to_json() == tokenizer.to_json()


def test_two_shards_are_one_stream_and_validation_is_halved(folder):
    data = module(folder)
    shards = [read_shard(file) for file in sorted(folder.glob("*train*"))]
    assert data.train_tokens().tolist() == [*shards[0], *shards[1]]
    held_out = read_shard(folder / "fineweb_val_000000.bin")
    assert [*data.streams["val"].ids, *data.streams["test"].ids] == held_out.tolist()
    assert data.streams["train"].documents == 12 + 8
    assert len(module(folder, train_shards=1).train_tokens()) == 300
    assert module(folder, train_shards=1).fingerprint != data.fingerprint
    assert data.vocab_size == len(PIECES)
    assert data.train_batch(0).tokens.shape == (3, 8)


def test_scored_bytes_are_those_of_the_evaluation_windows(folder):
    data = module(folder)
    for split, loader in {
        "val": data.val_dataloader(),
        "test": data.test_dataloader(),
        "train": data.train_eval_dataloader(),
    }.items():
        total = 0
        for batch in loader:
            scored = batch.targets != IGNORED
            before, targets = batch.tokens[scored].numpy(), batch.targets[scored].numpy()
            total += int(data.tokenizer.scored_bytes(before, targets).sum())
        assert total == data.split_bytes[split] > 0
    joined = torch.cat([b.targets.flatten() for b in data.val_dataloader()])
    assert joined[joined != IGNORED].tolist() == data.streams["val"].ids[1:].tolist()


def test_a_part_of_the_shards_counts_its_own_bytes(folder):
    whole, part = module(folder), module(folder, train_tokens=120)
    ids = part.train_tokens()
    assert ids.tolist() == whole.train_tokens()[:120].tolist()
    stream = part.streams["train"]
    assert stream.documents == 5
    assert stream.num_bytes == part.tokenizer.scored_bytes(ids[:-1], ids[1:]).sum()
    assert part.fingerprint != whole.fingerprint


def test_what_is_missing_or_wrong_is_one_line(folder):
    with pytest.raises(UserError, match=r"data.variant=sp4096: there is no \*train\*.bin"):
        module(folder, variant="sp4096")
    assert module(folder, variant="sp4096", path=str(folder)).variant == "sp4096"
    with pytest.raises(UserError, match="train_shards"):
        module(folder, train_shards=0)
    write_shard(folder / "fineweb_val_000001.bin", np.array([1, 999, 3]))
    with pytest.raises(UserError, match="the id 999"):
        module(folder)
    (folder / "fineweb_1024_bpe.vocab").write_text("no table\n")
    with pytest.raises(UserError, match="vocab"):
        module(folder)
