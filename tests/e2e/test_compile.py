"""A compiled run; in a process of its own, since the checks of annotations break compilation."""

import pytest

import crystalline
from tests.running import arguments, process, train


@pytest.mark.slow
def test_a_compiled_run_learns_what_an_eager_one_does(corpus, tmp_path):
    eager = train(corpus, tmp_path / "eager")
    done = process(
        "run", tmp_path, *arguments(corpus, tmp_path / "compiled", "compile=true"), timeout_s=600
    )
    assert done.status == 0, done.err
    compiled = type(eager)(0, tmp_path / "compiled")
    for name in ("loss/prediction", "val/loss"):
        of_both = [[float(value) for value in run.column(name)] for run in (compiled, eager)]
        assert of_both[0] == pytest.approx(of_both[1], rel=1e-3)
    crystalline.load(compiled.best)  # compilation leaves no trace in the names of weights
