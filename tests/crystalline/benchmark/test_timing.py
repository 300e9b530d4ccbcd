"""Taking turns, dropping out, counting memory; no test asks how long anything took."""

import time

import pytest
import torch

from crystalline.benchmark.timing import UnavailableError, elapsed_ms, measure, peak_mib

CPU = torch.device("cpu")


class Contestant:
    """Notes its calls in a list that all share; fails from call number `fails_at` on."""

    def __init__(self, name, calls, error=None, fails_at=0):
        self.name, self.calls, self.error, self.fails_at = name, calls, error, fails_at

    def __call__(self):
        number = self.calls.count(self.name)
        if self.error is not None and number >= self.fails_at:
            raise self.error
        self.calls.append(self.name)
        return torch.tensor([number])


def race(contestants, **changed):
    rules = {"warmup": 2, "repeats": 3, "limit_s": 60.0, **changed}
    return measure(contestants, CPU, **rules)


def test_contestants_take_turns_and_answer_with_their_first_call():
    calls = []
    found = race({name: Contestant(name, calls) for name in "ab"}, repeats=20)
    rounds = ["".join(calls[i : i + 2]) for i in range(0, len(calls), 2)]
    assert len(rounds) == 2 + 1 + 20
    assert set(rounds) == {"ab", "ba"}
    for result in found.values():
        assert result.answer is not None
        assert result.answer.tolist() == [0]
        assert len(result.times_ms) == 20
        assert result.note == ""


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (UnavailableError("not installed"), "not installed"),
        (torch.OutOfMemoryError("tried to allocate"), "out of memory"),
    ],
)
@pytest.mark.parametrize("fails_at", [0, 2, 4])
def test_who_fails_drops_out_with_a_note_and_the_others_go_on(error, note, fails_at):
    calls = []
    found = race({"a": Contestant("a", calls, error, fails_at), "b": Contestant("b", calls)})
    assert calls.count("a") == fails_at
    assert found["a"].note == note
    assert found["a"].quantile_ms(0.5) is None
    assert found["a"].peak_mib is None
    assert len(found["b"].times_ms) == 3


def test_our_own_errors_are_not_swallowed():
    with pytest.raises(RuntimeError, match="a bug"):
        race({"a": Contestant("a", [], RuntimeError("a bug"))})


def test_a_spent_limit_leaves_one_timed_call():
    calls = []

    def slow():
        time.sleep(0.002)
        return Contestant("a", calls)()

    found = race({"a": slow}, repeats=50, limit_s=0.001)
    assert len(found["a"].times_ms) == 1


def test_a_peak_is_what_a_call_holds_at_once_beyond_what_was_there():
    held = torch.ones(1 << 18)  # 1 MiB, there before

    def call():
        for _ in range(3):
            held + 1
        first = torch.ones(1 << 19)
        return first + torch.ones(1 << 19)

    assert peak_mib(call, CPU) == pytest.approx(6, abs=0.1)  # three of 2 MiB


def test_an_elapsed_time_spans_the_call():
    def call():
        time.sleep(0.002)
        return held

    held = torch.zeros(1)
    assert elapsed_ms(call, CPU) >= 2
