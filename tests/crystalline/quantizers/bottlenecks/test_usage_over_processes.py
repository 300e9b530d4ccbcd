"""The usage term of loss/compression sees the global batch (test G12 of the spec), in every round.

The batch is so small that the second round's term is made of the first round's mean, too.
"""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from crystalline.quantizers.bottlenecks import CrystallineBottleneck

SIZE = (4, 6, 8)  # sequences, positions, width


def example():
    torch.manual_seed(0)
    book = CrystallineBottleneck(SIZE[-1], 16, 2, noise=False)
    torch.nn.init.normal_(book.codes)
    return book.train(), torch.randn(SIZE)


def compression(book, x):
    loss = book(x, torch.full((1, 1), 0.3)).losses["compression"]
    book.zero_grad()
    loss.backward()
    return loss.detach(), book.codes.grad.clone()


def two_rounds(book, x):
    first = compression(book, x)
    book.end_round(torch.tensor(False))
    return [*first, *compression(book, x)]


def one_of_two(rank, folder):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    book, x = example()
    found = two_rounds(book, x.chunk(2)[rank])
    for value in found:  # as DDP does with losses that are logged, and with gradients
        dist.all_reduce(value)
    if rank == 0:
        torch.save([value / 2 for value in found], f"{folder}/found.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_loss_and_gradient_of_one(tmp_path):
    mp.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    expected = two_rounds(*example())
    for value, alone in zip(torch.load(tmp_path / "found.pt"), expected, strict=True):
        torch.testing.assert_close(value, alone, atol=1e-6, rtol=1e-4)
    alone = [compression(example()[0], part)[0] for part in example()[1].chunk(2)]
    assert abs(torch.stack(alone).mean() - expected[0]) > 1e-3  # halves by themselves differ
