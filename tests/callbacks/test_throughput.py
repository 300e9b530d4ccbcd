import itertools
from types import SimpleNamespace

import torch

from callbacks.throughput import peak_memory_mib
from tests.running import train


def test_only_training_counts_and_the_summary_has_the_median(corpus, tmp_path, monkeypatch):
    # A clock that goes on a second whenever it is looked at: at the start and end of each stretch.
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr("callbacks.throughput.time", clock)
    run = train(
        corpus,
        tmp_path,
        "trainer.max_steps=6",
        "trainer.log_every_n_steps=2",
        "trainer.val_check_interval=3",
        model="transformer",
    )
    # Two rounds of 64 tokens in a second; validation cuts the second interval into two stretches.
    assert [float(v) for v in run.column("tokens_per_second")] == [128.0, 64.0, 128.0]
    assert run.summary["tokens_per_second"] == 128.0


def test_memory_is_that_of_the_process_on_a_cpu():
    before = peak_memory_mib(torch.device("cpu"))
    block = torch.ones(64 * 2**18)  # 64 MiB
    after = peak_memory_mib(torch.device("cpu"))
    assert block.sum() > 0
    assert 50 < before <= after < 100_000
