import pytest

from crystalline.arms import arms
from crystalline.errors import UserError
from crystalline.frontier import frontier
from crystalline.results import Row
from crystalline.summary import write_summary

BY = ["model.k"]


def row(k, seed, bits, perplexity, usage=0.5, codes=10):
    summary = {"test/code_bits": bits, "test/perplexity": perplexity, "codebook/usage": usage,
               "test/bpb": perplexity / 10, "val/bpb": perplexity / 10,
               "parameters": 100 + codes, "parameters_without_codebooks": 100}  # fmt: skip
    return Row(f"{k}-{seed}", {"model.k": k, "seed": str(seed)}, summary, None)


JOBS = [
    row("1", 0, 10.0, 13.0), row("1", 1, 12.0, 15.0),
    row("8", 0, 50.0, 10.0), row("8", 1, 52.0, 10.2, usage=0.7),
    row("16", 0, 90.0, 10.0),
]  # fmt: skip
BASE = row("1", 0, None, 10.0, codes=0)


def test_jobs_that_differ_in_their_seeds_are_one_arm():
    assert {name: len(jobs) for name, jobs in arms(JOBS, BY).items()} == {
        "k=1": 2, "k=8": 2, "k=16": 1,
    }  # fmt: skip
    sweep = Row("0", {"data.mix": "False"}, {"parameters": 1}, None)
    assert list(arms([sweep], ["data.mix", "model.k"])) == ["mix=false k="]


def test_the_sweet_spot_has_the_fewest_bits_of_those_that_cost_little():
    found = frontier([*JOBS, BASE], BY, 1.02, None)
    assert found["sweet spot"] == "k=8"
    assert found["sweet spot bits"] == 51
    assert found["sweet spot perplexity ratio"] == pytest.approx(1.01)
    assert found["sweet spot usage"] == pytest.approx(0.6)
    assert found["ratio, k=1"] == pytest.approx(1.4)
    assert found["bits, k=16"] == 90
    assert found["bits and perplexity rho"] == pytest.approx(-1)


def test_the_baseline_may_be_another_run(tmp_path):
    write_summary(tmp_path, {**(BASE.summary or {}), "test/perplexity": 5.0})
    found = frontier(JOBS, BY, 1.02, str(tmp_path))
    assert "sweet spot" not in found
    assert found["perplexity ratio, k=16"] == 2
    with pytest.raises(UserError, match="baseline=nowhere: give the folder"):
        frontier(JOBS, BY, 1.02, "nowhere")


def test_without_a_baseline_nothing_is_compared():
    found = frontier(JOBS, BY, 1.02, None)
    assert set(found) == {"bits, k=1", "bits, k=8", "bits, k=16", "bits and perplexity rho"}
