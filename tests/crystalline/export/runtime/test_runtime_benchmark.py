import pytest

from crystalline.benchmark import crystal_runtime
from crystalline.benchmark.crystal_runtime import CACHED, PYTORCH, measure, text_table
from tests.crystalline.export.runtime.driving import small_model

pytestmark = pytest.mark.usefixtures("unchecked")


def test_every_contestant_gets_a_row(plain, monkeypatch):
    monkeypatch.setattr(crystal_runtime, "build", lambda folder: plain.path)
    model = small_model(vocab_size=260)
    rows = measure(model, ["float32", "int8_rows"], tokens=40, repeats=2, threads=1)
    assert [row.contestant for row in rows] == [PYTORCH, CACHED, "float32", "int8_rows"]
    assert all(len(row.tokens_per_s) == 2 and min(row.tokens_per_s) > 0 for row in rows)
    exact, rounded = rows[2:]
    assert exact.difference <= 1e-4 < rounded.difference
    assert 0 < exact.resident_mib < 20 < rows[0].resident_mib
    assert len(text_table(rows).splitlines()) == 8
