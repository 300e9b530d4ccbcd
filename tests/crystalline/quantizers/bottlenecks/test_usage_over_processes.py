"""The usage term of loss/compression sees the global batch (test G12 of the spec)."""

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


def one_of_two(rank, folder):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    book, x = example()
    loss, gradient = compression(book, x.chunk(2)[rank])
    for value in (loss, gradient):  # as DDP does with losses that are logged, and with gradients
        dist.all_reduce(value)
    if rank == 0:
        torch.save((loss / 2, gradient / 2), f"{folder}/found.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_loss_and_gradient_of_one(tmp_path):
    mp.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    loss, gradient = torch.load(tmp_path / "found.pt")
    expected_loss, expected = compression(*example())
    torch.testing.assert_close(loss, expected_loss, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gradient, expected, atol=1e-7, rtol=1e-4)
    alone = [compression(example()[0], part)[0] for part in example()[1].chunk(2)]
    assert abs(torch.stack(alone).mean() - expected_loss) > 1e-3  # halves by themselves differ
