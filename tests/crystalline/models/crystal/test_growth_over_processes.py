"""Two processes grow the neurons that one does, from the same global batches."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from callbacks.renewals import follow
from crystalline.models.crystal import Crystal
from crystalline.models.crystal.freezing import Graceful
from crystalline.models.crystal.growth import Growth

ROUNDS = 8


def grown(rank: int = 0, world_size: int = 1) -> dict[str, torch.Tensor]:
    """State after rounds of a share of each global batch; an epoch is one round."""
    torch.manual_seed(0)
    freezing = Graceful([[0.0, 1.0]], every=2, min_age=2, min_candidates=2, min_readings=2)
    model = Crystal(
        20, 12, 16, capacity=30, founders=8, attention="every", epochs=ROUNDS,
        growth=Growth(2, [[1.0, 3]]), freezing=freezing,
    ).double()  # fmt: skip
    learner = DistributedDataParallel(model) if world_size > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for round_ in range(ROUNDS):
        generator = torch.Generator().manual_seed(round_)
        tokens = torch.randint(0, 20, (4, 13), generator=generator).chunk(world_size)[rank]
        optimizer.zero_grad()
        logits = learner(tokens[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        model.after_backward()
        optimizer.step()
        model.end_round(torch.tensor(False))
        for renewal in model.end_epoch(round_ + 1, 0, None):
            follow([optimizer], renewal)
    return model.state_dict()


def one_of_two(rank: int, folder: str) -> None:
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.save(grown(rank, 2), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_grow_and_freeze_the_same_neurons_as_one(tmp_path):
    mp.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    alone = grown()
    assert int(alone["blocks.0.field.alive"].sum()) > 12
    assert alone["blocks.0.field.frozen"].any()
    for name, value in alone.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        torch.testing.assert_close(ranks[0][name], value, atol=1e-5, rtol=1e-5)
