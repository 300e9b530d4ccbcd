import pytest
import torch

from crystalline.errors import UserError
from datamodules.fsm import VARIANTS, FSMDataModule


def module(seed=0, variant="paper", batch_size=8):
    data = FSMDataModule(variant, batch_size, eval_batch_size=512, seed=seed)
    data.prepare_data()
    data.setup("fit")
    return data


@pytest.mark.parametrize("variant", VARIANTS)
def test_batches_are_sequences_of_the_machine(variant):
    data = module(variant=variant)
    batch = data.train_batch(3)
    assert batch.tokens.shape == batch.targets.shape == (8, data.seq_len) == (8, 127)
    assert batch.tokens.dtype == torch.int64
    assert torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    assert (batch.tokens[:, 0] == data.tokenizer.eot_id).all()
    assert int(batch.targets.max()) < data.tokenizer.eot_id == data.vocab_size - 1


def test_a_batch_is_a_function_of_seed_and_round():
    first, second = module(), module()
    second.train_batch(0)
    assert torch.equal(first.train_batch(5).tokens, second.train_batch(5).tokens)
    assert not torch.equal(first.train_batch(5).tokens, first.train_batch(6).tokens)
    assert not torch.equal(first.train_batch(5).tokens, module(seed=1).train_batch(5).tokens)


def test_evaluation_sequences_are_fixed_and_apart():
    first, second = module(seed=0), module(seed=1)
    val = torch.cat([b.tokens for b in first.val_dataloader()])
    test = torch.cat([b.tokens for b in first.test_dataloader()])
    assert len(val) == len(test) == 2048
    assert torch.equal(val, torch.cat([b.tokens for b in second.val_dataloader()]))
    assert not {tuple(row) for row in val.tolist()} & {tuple(row) for row in test.tolist()}


def test_train_evaluation_is_what_is_trained_first():
    data = module(batch_size=100)
    rows = torch.cat([b.tokens for b in data.train_eval_dataloader()])
    assert len(rows) == 2048
    assert torch.equal(rows[:200], torch.cat([data.train_batch(r).tokens for r in (0, 1)]))


def test_the_states_behind_evaluation_sequences_are_known():
    data = module(variant="hidden")
    walks = data.eval_drawn("val")
    assert (data.machine.write(walks.states, 128) == walks.tokens).all()


def test_generated_digits_are_no_text():
    data = module()
    assert (data.is_text, data.split_bytes, data.train_tokens()) == (False, None, None)
    assert data.fingerprint != module(variant="hidden").fingerprint
    assert "1.1748" in "\n".join(data.describe())


def test_unknown_variants_are_user_errors():
    with pytest.raises(UserError, match=r"data\.variant must be one of paper"):
        module(variant="papr")
