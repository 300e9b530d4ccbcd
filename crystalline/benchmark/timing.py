"""What one call takes and needs; contestants take turns, so that drift hits all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd.profiler import profile

Contestant = Callable[[], Tensor]
"""Does the whole work once and gives back what it chose."""

_MIB = 2**20
_T = TypeVar("_T")


class UnavailableError(Exception):
    """A contestant cannot take part; the message, which says why, stands in its row."""


@dataclass(frozen=True)
class Measurement:
    """What became of a contestant: figures, or a note that says why there are none."""

    answer: Tensor | None = None
    """What its first call gave back."""
    times_ms: tuple[float, ...] = ()
    """Of every timed call, in order."""
    peak_mib: float | None = None
    """Most memory held at once during a call, beyond what was held before it."""
    note: str = ""

    def quantile_ms(self, share: float) -> float | None:
        return float(np.quantile(self.times_ms, share)) if self.times_ms else None


class Recorded:
    """A contestant that is replayed as a CUDA graph from its fifth call on.

    The calls before it are step by step: they warm up, and memory is counted in one of them.
    """

    def __init__(self, call: Contestant) -> None:
        self.call = call
        self._left = 4
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> Tensor:
        if self._left:
            self._left -= 1
            return self.call()
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._answer = self.call()
        self._graph.replay()
        return self._answer


def measure(
    contestants: Mapping[str, Contestant],
    device: torch.device,
    *,
    warmup: int,
    repeats: int,
    limit_s: float,
) -> dict[str, Measurement]:
    """Call everyone in turn: `warmup` rounds, one that counts memory, and `repeats` timed ones.

    The order changes from round to round: who follows a large one finds caches and pages gone.
    Who runs out of memory, or raises `UnavailableError`, drops out; the others go on.

    Args:
        contestants: By name.
        device: Where they work.
        warmup: Untimed rounds, at least 1.
        repeats: Timed rounds, at least 1.
        limit_s: No timed round but the first begins later than this after the first.
    """
    race = _Race(contestants)
    answers = race.turn(lambda call: call())
    for _ in range(warmup - 1):
        race.turn(lambda call: call())
    peaks = race.turn(lambda call: peak_mib(call, device))
    rounds: list[dict[str, float]] = []
    began_s = time.perf_counter()
    while len(rounds) < repeats and (not rounds or time.perf_counter() - began_s < limit_s):
        rounds.append(race.turn(lambda call: elapsed_ms(call, device)))
    return {
        name: Measurement(note=race.notes[name])
        if name in race.notes
        else Measurement(answers[name], tuple(times[name] for times in rounds), peaks[name])
        for name in contestants
    }


class _Race:
    """Who still takes part, and why the others do not."""

    def __init__(self, contestants: Mapping[str, Contestant]) -> None:
        self.contestants = dict(contestants)
        self.notes: dict[str, str] = {}
        self.order = random.Random(0)

    def turn(self, act: Callable[[Contestant], _T]) -> dict[str, _T]:
        results = {}
        for name in self.order.sample(list(self.contestants), len(self.contestants)):
            try:
                results[name] = act(self.contestants[name])
            except UnavailableError as why:
                self.notes[name] = str(why)
            except torch.OutOfMemoryError:
                self.notes[name] = "out of memory"
            if name in self.notes:  # the traceback, which held on to the tensors, has gone
                del self.contestants[name]
                torch.cuda.empty_cache()
        return results


def elapsed_ms(call: Contestant, device: torch.device) -> float:
    """Time of one call that finds the device idle: launches count where kernels do not hide them.

    CUDA events on a GPU, the clock of the process elsewhere.
    """
    if device.type != "cuda":
        began_s = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - began_s)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def peak_mib(call: Contestant, device: torch.device) -> float:
    """Most memory of torch's allocator held at once during a call, beyond what was held before.

    Scratch space that a library takes for itself (MKL, cuBLAS) is not torch's and is not counted.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / _MIB
    # The CPU's allocator keeps no such count, but it tells the profiler of every block.
    seen = profile(profile_memory=True)
    with seen:
        call()
    results: Any = seen.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(0, int(np.cumsum(changes).max(initial=0))) / _MIB
