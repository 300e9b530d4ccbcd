import numpy as np
import torch

from datamodules.fsm import FSMDataModule


def test_training_windows_are_those_of_the_first_rounds():
    data = FSMDataModule("paper", batch_size=3, eval_batch_size=4, seed=0)
    data.setup("fit")
    found = torch.cat([batch.tokens for batch in data.train_windows(7)])
    rounds = torch.cat([data.train_batch(number).tokens for number in range(3)])
    assert torch.equal(found, rounds[:7])


def test_spread_windows_reach_both_ends_of_the_split():
    data = FSMDataModule("paper", batch_size=3, eval_batch_size=4, seed=0)
    data.setup("fit")
    total = data.num_eval_windows("val")
    batches = list(data.spread_windows("val", 6))
    assert [len(batch.tokens) for batch in batches] == [4, 2]
    first = data.eval_windows("val", np.arange(6) * total // 6)
    assert torch.equal(torch.cat([batch.targets for batch in batches]), first.targets)
    assert sum(len(batch.tokens) for batch in data.spread_windows("val", total + 5)) == total
