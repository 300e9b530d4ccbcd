from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalline.errors import UserError
from datamodules.batch import IGNORED, Batch
from datamodules.loaders import EvaluationLoader, RoundLoader


def train_batch(round_, batch_size=12):
    tokens = torch.arange(batch_size)[:, None] + 100 * round_ + torch.zeros(1, 3, dtype=torch.int64)
    return Batch(tokens, tokens + 1)


def read(numbers):
    tokens = torch.from_numpy(np.asarray(numbers))[:, None].repeat(1, 5)
    return Batch(tokens, tokens.clone())


@given(world=st.sampled_from([1, 2, 3, 4, 6, 12]), start=st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_slices_of_all_ranks_make_the_global_batch(world, start):
    loaders = [
        RoundLoader(train_batch, start=start, rank=r, world_size=world, batch_size=12)
        for r in range(world)
    ]
    for offset, parts in enumerate(islice(zip(*loaders, strict=True), 3)):
        whole = train_batch(start + offset)
        assert torch.equal(torch.cat([part.tokens for part in parts]), whole.tokens)
        assert torch.equal(torch.cat([part.targets for part in parts]), whole.targets)


def test_a_batch_that_ranks_cannot_share_is_a_user_error():
    with pytest.raises(UserError, match=r"data\.batch_size=12 cannot be shared by 5 processes"):
        RoundLoader(train_batch, world_size=5, batch_size=12)


@given(
    num_windows=st.integers(1, 40), batch_size=st.integers(1, 7), world=st.sampled_from([1, 2, 3])
)
@settings(max_examples=20, deadline=None)
def test_evaluation_scores_every_window_once_in_step(num_windows, batch_size, world):
    ranks = [
        EvaluationLoader(read, num_windows, batch_size=batch_size, rank=r, world_size=world)
        for r in range(world)
    ]
    batches = [list(loader) for loader in ranks]
    assert {len(b) for b in batches} == {len(ranks[0])}
    for parts in zip(*batches, strict=True):
        assert len({part.tokens.shape for part in parts}) == 1
        assert 1 <= len(parts[0].tokens) <= batch_size
    targets = torch.cat([batch.targets for part in batches for batch in part])
    scored = targets[targets[:, 0] != IGNORED]
    assert sorted(scored[:, 0].tolist()) == list(range(num_windows))
    assert not (scored == IGNORED).any()
