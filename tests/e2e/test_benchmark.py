"""The benchmark command, as a user starts it."""

import json

import pytest

from tests.running import process


@pytest.mark.slow
def test_benchmark_prints_a_table_and_leaves_json_and_a_picture(tmp_path):
    sizes = ["points=50", "d_model=6", "num_codebooks=2", "codebook_size=8"]
    done = process(
        "benchmark",
        tmp_path,
        "suite=quantizers",
        "cases=[residual_small]",
        *("device=cpu", "warmup=1", "repeats=2"),
        *(f"suite.residual_small.{size}" for size in sizes),
    )
    assert done.status == 0, done.err
    assert done.out.startswith("residual_small: 50 points of width 6, 2 x 8 codes, fp32\n")
    assert done.err.splitlines() == [
        "residual_small: 50 points of width 6, 2 x 8 codes, fp32",
        "written to benchmark_quantizers.json and benchmark_quantizers.png",
    ]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"benchmark_quantizers.json", "benchmark_quantizers.png"}
    found = json.loads((tmp_path / "benchmark_quantizers.json").read_text())
    assert "suite=quantizers" in found["command"]
    assert {row["case"] for row in found["rows"]} == {"residual_small"}
