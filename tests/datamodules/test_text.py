from itertools import islice

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from crystalline.errors import UserError
from datamodules import streams
from datamodules.batch import IGNORED
from datamodules.corpora.files import AnyFiles, TextFiles
from datamodules.text import TextDataModule
from datamodules.tokenizer_builders import Bytes, TrainedBPE

TEXT = "".join(f"{i}: the café cat sat on mat {i * i % 97}.\n" for i in range(120))


def module(folder, text=TEXT, corpus=TextFiles, tokenizer=None, ready=True, **options):
    folder.mkdir(exist_ok=True)
    path = folder / "corpus"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    settings_ = {"seq_len": 16, "batch_size": 6, "eval_batch_size": 5, "windows": "shuffle"}
    data = TextDataModule(
        corpus=corpus("none"),
        tokenizer=tokenizer or Bytes(),
        cache_dir=str(folder / "cache"),
        path=str(path),
        **({"seed": 0, "stride": 4} | settings_ | options),
    )
    if ready:
        data.prepare_data()
        data.setup("fit")
    return data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return module(tmp_path_factory.mktemp("text"))


def test_targets_follow_tokens_in_the_stream(data):
    ids = np.asarray(data.train_tokens(), np.int64)
    twice = np.concatenate([ids, ids])
    stream = twice.tobytes()
    batch = data.train_batch(2)
    assert batch.tokens.shape == batch.targets.shape == (6, 16)
    assert batch.tokens.dtype == batch.targets.dtype == torch.int64
    for tokens, targets in zip(batch.tokens, batch.targets, strict=True):
        assert torch.equal(tokens[1:], targets[:-1])
        assert torch.cat([tokens, targets[-1:]]).numpy().tobytes() in stream


def test_an_epoch_of_rounds_scores_every_token_once(tmp_path):
    alphabet = bytes(range(250))  # every byte once in training: a target names its place
    data = module(tmp_path, alphabet, AnyFiles, seq_len=7, batch_size=3)
    count = len(data.train_tokens()) // 7
    targets = torch.cat([data.train_batch(r).targets for r in range(data.rounds_per_epoch)])
    first_epoch = targets[:count].flatten().tolist()
    assert len(set(first_epoch)) == len(first_epoch) == count * 7


@given(round_=st.integers(0, 200), seed=st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_a_batch_is_a_function_of_seed_and_round(data, tmp_path_factory, round_, seed):
    folder = tmp_path_factory.getbasetemp() / "same"
    first = module(folder, seed=seed)
    second = module(folder, seed=seed)
    second.train_batch(7)
    assert torch.equal(first.train_batch(round_).tokens, second.train_batch(round_).tokens)


def test_seeds_give_other_batches(tmp_path):
    batches = [module(tmp_path, seed=seed).train_batch(0).tokens for seed in (0, 1)]
    assert not torch.equal(*batches)


@given(length=st.integers(60, 400), seq_len=st.integers(1, 20), eval_batch_size=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_evaluation_scores_every_token_once(tmp_path_factory, length, seq_len, eval_batch_size):
    folder = tmp_path_factory.getbasetemp() / "cover"
    text = bytes(np.arange(length) % 256)
    data = module(folder, text, AnyFiles, seq_len=seq_len, eval_batch_size=eval_batch_size)
    for split, loader in {"val": data.val_dataloader(), "test": data.test_dataloader()}.items():
        batches = list(loader)
        targets = torch.cat([b.targets.flatten() for b in batches])
        assert targets[targets != IGNORED].tolist() == data.streams[split].ids[1:].tolist()
        assert all(b.tokens.shape[1] == seq_len for b in batches)
        assert len(batches) == len(loader)


def test_bits_per_byte_divide_by_the_bytes_of_the_text(tmp_path):
    data = module(tmp_path, tokenizer=TrainedBPE(270))
    for split, loader in {
        "val": data.val_dataloader(),
        "test": data.test_dataloader(),
        "train": data.train_eval_dataloader(),
    }.items():
        targets = torch.cat([b.targets.flatten() for b in loader])
        scored = targets[targets != IGNORED].tolist()
        size = sum(len(data.tokenizer.token_bytes(token)) for token in scored)
        assert size == data.split_bytes[split]


def test_train_evaluation_is_about_as_large_as_validation_and_always_the_same(data):
    first, second = (torch.cat([b.targets for b in data.train_eval_dataloader()]) for _ in range(2))
    assert torch.equal(first, second)
    assert len(first) == data.num_eval_windows("val")
    assert first[0, 0] == data.train_tokens()[1]


def test_splits_and_tokenizer_see_training_text_alone(tmp_path):
    text = "a" * 900 + "zq" * 50
    tokenizer = module(tmp_path, text, tokenizer=TrainedBPE(260)).tokenizer
    merged = {tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)}
    assert b"aa" in merged
    assert not any(len(token) > 1 and b"z" in token for token in merged)


def test_fingerprints_follow_the_text_and_nothing_else(tmp_path):
    first = module(tmp_path / "a").fingerprint
    assert module(tmp_path / "b", tokenizer=TrainedBPE(270), seed=3).fingerprint == first
    assert module(tmp_path / "c", TEXT + "more\n").fingerprint != first


def test_the_first_training_tokens_are_a_corpus_of_their_own(tmp_path):
    whole = module(tmp_path, tokenizer=TrainedBPE(270))
    part = module(tmp_path, tokenizer=TrainedBPE(270), train_tokens=200)
    assert part.train_tokens().tolist() == whole.train_tokens()[:200].tolist()
    assert part.tokenizer.to_json() == whole.tokenizer.to_json()
    assert part.rounds_per_epoch == 2  # of 6 windows of 16
    epochs = [torch.cat([part.train_batch(r).targets for r in (2 * e, 2 * e + 1)]) for e in (0, 3)]
    assert set(torch.cat(epochs).flatten().tolist()) == set(part.train_tokens().tolist())
    for split in ("val", "test"):
        assert part.streams[split].ids.tolist() == whole.streams[split].ids.tolist()
        assert part.split_bytes[split] == whole.split_bytes[split]


def test_bytes_documents_and_train_evaluation_are_of_the_tokens_used(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_IDS", 7)
    text = "<|endoftext|>\n".join(f"é story no. {i}\n" for i in range(40))
    data = module(tmp_path, text, train_tokens=100)
    ids, eot = data.train_tokens().tolist(), data.tokenizer.eot_id
    said = bytes(i for i in ids if i != eot)
    assert data.streams["train"].num_bytes == len(said)
    assert data.streams["train"].documents == ids.count(eot) > 2
    batches = list(data.train_eval_dataloader())
    targets = torch.cat([b.targets.flatten() for b in batches])
    assert set(targets[targets != IGNORED].tolist()) <= set(ids)
    assert sum(len(b.tokens) for b in batches) == data.num_eval_windows("train") <= 7
    scored = [i for i in targets[targets != IGNORED].tolist() if i != eot]
    assert data.split_bytes["train"] == len(scored)


def test_the_fingerprint_tells_how_much_training_text_is_used(tmp_path):
    def of(**options):
        return module(tmp_path, **options).fingerprint

    whole = module(tmp_path)
    count = len(whole.train_tokens())
    assert of(train_tokens=count) == whole.fingerprint
    assert of(train_tokens=1e3) == of(train_tokens=1000, seed=3) != whole.fingerprint
    assert of(train_tokens=999) not in (of(train_tokens=1000), whole.fingerprint)


def test_more_training_tokens_than_there_are_or_less_than_a_window_are_user_errors(
    tmp_path, unchecked
):
    with pytest.raises(
        UserError, match=r"^data\.train_tokens must be more than a window .*=16 .* 16$"
    ):
        module(tmp_path, ready=False, train_tokens=16)
    with pytest.raises(UserError, match=r"^data\.train_tokens must be .* many$"):
        module(tmp_path, ready=False, train_tokens="many")
    with pytest.raises(
        UserError, match=r"^data\.train_tokens must be at most the 91 tokens .* 92$"
    ):
        module(tmp_path, "x" * 100, train_tokens=92)


def test_binary_files_are_no_text_but_have_bytes(tmp_path):
    data = module(tmp_path, bytes(range(256)) * 20, AnyFiles)
    assert not data.is_text
    assert data.split_bytes["val"] == 256
    assert module(tmp_path, TEXT, AnyFiles).is_text


def test_binary_files_need_the_byte_tokenizer(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer@data\.tokenizer=bytes"):
        module(tmp_path, bytes(range(256)) * 20, AnyFiles, TrainedBPE(300))


def test_too_little_text_for_a_window_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"data\.seq_len=500 .* than the 91 tokens here"):
        module(tmp_path, "x" * 100, seq_len=500)


@pytest.mark.parametrize("key", ["seq_len", "batch_size", "eval_batch_size"])
def test_sizes_below_one_are_user_errors(tmp_path, key):
    with pytest.raises(UserError, match=rf"data\.{key} must be at least 1, got 0"):
        module(tmp_path, ready=False, **{key: 0})


@pytest.mark.parametrize("windows", ["random", "overlap"])
def test_other_windows_can_be_chosen(tmp_path, windows):
    data = module(tmp_path, windows=windows)
    assert data.train_batch(0).tokens.shape == (6, 16)
    assert data.rounds_per_epoch > 0


class Probe(lightning.LightningModule):
    """Notes what Lightning hands to it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen, self.evaluated = [], []

    def training_step(self, batch, index):
        self.seen.append(batch.tokens.clone())
        return self.weight.sum()

    def validation_step(self, batch, index):
        self.evaluated.append(int((batch.targets != IGNORED).sum()))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, probe, steps, **options):
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        check_val_every_n_epoch=None,
        val_check_interval=4,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
    )
    trainer.fit(probe, datamodule=data, **options)
    return trainer


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # Lightning 2.6 with torch 2.13
def test_lightning_trains_on_the_rounds_in_order_and_resumes_at_the_next(tmp_path):
    whole = Probe()
    data = module(tmp_path)
    trainer = fit(data, whole, 4)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest = Probe()
    again = module(tmp_path)
    fit(again, rest, 8, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    expected = [data.train_batch(r).tokens for r in range(8)]
    assert all(map(torch.equal, whole.seen + rest.seen, expected))
    assert len(whole.seen) == 4
    assert sum(whole.evaluated) == len(data.streams["val"].ids) - 1


def test_without_a_trainer_rounds_start_at_zero(data):
    batches = islice(data.train_dataloader(), 3)
    assert all(torch.equal(b.tokens, data.train_batch(r).tokens) for r, b in enumerate(batches))
