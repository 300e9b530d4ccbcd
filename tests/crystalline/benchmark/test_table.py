"""Rows as text, JSON and picture."""

import json
from dataclasses import replace

import pytest
import torch

from crystalline.benchmark.case import Case, Row, compare
from crystalline.benchmark.table import setting, text_table, write_json, write_picture
from crystalline.benchmark.timing import UnavailableError

CPU = torch.device("cpu")


class Counting(Case):
    """Two who answer with five numbers, one of them wrong once, and one who is not here."""

    devices = ("cpu",)
    title = "five numbers"
    baseline = "peer"
    packages = ("numpy", "there-is-no-such-package")

    def contestants(self, device):
        return {"ours": lambda: torch.arange(5), "peer": self._peer, "gone": self._gone}

    def reference(self, device):
        return torch.arange(5)

    @staticmethod
    def _peer():
        return torch.tensor([0, 1, 2, 3, 0])

    @staticmethod
    def _gone():
        raise UnavailableError("not installed: pip install it")


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return compare("counting", Counting(), CPU, warmup=1, repeats=4, limit_s=60)


def test_rows_compare_with_the_baseline_and_the_reference(rows):
    ours, peer, gone = rows
    assert [row.contestant for row in rows] == ["ours", "peer", "gone"]
    assert (ours.agreement, peer.agreement, gone.agreement) == (1.0, 0.8, None)
    assert peer.times_faster == 1.0
    assert ours.times_faster == pytest.approx(peer.median_ms / ours.median_ms)
    assert ours.q1_ms <= ours.median_ms <= ours.q3_ms
    assert (ours.calls, gone.calls) == (4, 0)
    assert gone.times_faster is None


def test_without_the_baseline_there_are_no_ratios():
    case = Counting()
    case.baseline = "gone"
    found = compare("counting", case, CPU, warmup=1, repeats=1, limit_s=60)
    assert [row.times_faster for row in found] == [None] * 3
    assert found[0].median_ms is not None


def test_the_text_has_a_line_for_each_row_and_says_why_figures_are_missing(rows):
    lines = text_table(rows, {"counting": Counting()}).splitlines()
    assert lines[0] == "counting: five numbers"
    assert [line.split()[0] for line in lines[2:5]] == ["ours", "peer", "gone"]
    assert lines[2].endswith("100.000 %")
    assert lines[3].startswith("peer *")
    assert lines[4].split(maxsplit=1)[1] == "not installed: pip install it"


def test_only_complete_agreement_is_a_hundred_percent(rows):
    almost = replace(rows[0], agreement=1 - 1e-7)
    assert "99.999 %" in text_table([almost], {"counting": Counting()})


def test_json_holds_every_field_and_what_figures_depend_on(rows, tmp_path):
    path = tmp_path / "new" / "found.json"
    said = {**setting(CPU, Counting.packages), "repeats": 4}
    write_json(path, rows, {"counting": Counting()}, said)
    found = json.loads(path.read_text())
    assert found["cases"] == {"counting": {"title": "five numbers", "baseline": "peer"}}
    assert found["rows"][1]["agreement"] == 0.8
    assert found["rows"][2]["median_ms"] is None
    assert "threads" in found["device"]
    assert {"torch", "numpy", "crystalline"} <= set(found["versions"])
    assert "there-is-no-such-package" not in found["versions"]
    assert found["repeats"] == 4
    assert found["float32_matmul_precision"] == torch.get_float32_matmul_precision()


def test_the_picture_is_a_png_even_where_nobody_could_take_part(rows, tmp_path):
    path = tmp_path / "found.png"
    gone = [replace(rows[2], case="empty"), *rows]
    write_picture(path, gone, {"counting": Counting(), "empty": Counting()})
    assert path.read_bytes().startswith(b"\x89PNG")
