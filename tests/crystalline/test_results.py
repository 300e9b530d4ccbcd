"""Reports of sweeps, from the jobs' folders alone."""

import csv
import io
import json

import pytest

from crystalline.results import best_row, read_rows, report_markdown, results_csv, score, swept_keys
from crystalline.tradeoff import heat_png, intervals_png, spread_png, tradeoff_png

PNG = b"\x89PNG"


@pytest.fixture
def sweep(tmp_path):
    """Writes a job's folder as a run leaves it."""

    def add(job, overrides, summary=None, error=None):
        folder = tmp_path / str(job)
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
        if summary is not None:
            (folder / "summary.json").write_text(json.dumps(summary))
        if error is not None:
            (folder / "error.txt").write_text(error + "\n")
        return tmp_path

    return add


def summary(bpb, test_bpb=None, **more):
    values = {"val/bpb": bpb, "val/loss": 2.0, "test/bpb": test_bpb or bpb, "test/loss": 2.0}
    return {**values, "tokens_per_second": 12345.6, "parameters": 1000000, "seed": 0, **more}


def test_jobs_come_in_the_order_of_their_numbers_with_what_was_swept(sweep):
    for job in (10, 2, 0):
        folder = sweep(job, ["model=ziggurat", f"+model.size={job}", "note=a=b"], summary(job))
    rows = read_rows(folder)
    assert [row.job for row in rows] == ["0", "2", "10"]
    assert rows[2].overrides == {"model": "ziggurat", "model.size": "10", "note": "a=b"}
    assert swept_keys(rows) == ["model.size"]
    assert swept_keys(rows[:1]) == ["model", "model.size", "note"]


def test_the_best_job_is_chosen_by_validation_not_by_test(sweep):
    sweep(0, ["k=1"], summary(2.0, test_bpb=1.0))
    folder = sweep(1, ["k=2"], summary(1.9, test_bpb=3.0))
    best = best_row(read_rows(folder))
    assert best is not None
    assert best.job == "1"


def test_the_loss_is_the_score_where_one_job_has_no_bits_per_byte():
    assert score([{"val/bpb": 1.0}, None]) == "bpb"
    assert score([{"val/bpb": 1.0}, {"val/bpb": None, "val/loss": 1.2}]) == "loss"
    assert score([]) == "loss"


def test_the_page_has_a_row_for_each_finished_job_and_names_the_failed_ones(sweep):
    sweep(0, ["model=a", "k=1"], summary(2.03125, **{"codebook/dead_fraction": 0.0421}))
    sweep(1, ["model=a", "k=2"], error="k=2 is bad; use 1")
    folder = sweep(2, ["model=a", "k=3"], summary(1.5))
    sweep(3, ["model=a", "k=4"])  # still runs
    page = report_markdown(read_rows(folder), "Sweep x")
    assert "2 jobs finished, 1 failed." in page
    assert "| job | k | test/bpb | val/bpb | codebook/dead_fraction | tokens_per_second |" in page
    assert "| 0 | 1 | 2.0312 | 2.0312 | 4.2 % | 12,346 | 1,000,000 |" in page
    assert "| **2** | **3** | **1.5000** | **1.5000** | **-** |" in page
    assert "- job 1 (model=a k=2): k=2 is bad; use 1" in page
    assert "| 3 |" not in page


def test_a_page_without_results_has_no_table(sweep):
    page = report_markdown(read_rows(sweep(0, ["k=1"], error="bad")), "Sweep")
    assert "1 failed" in page
    assert "| job |" not in page
    assert "tradeoff.png" not in page


def test_csv_has_every_override_and_number_once(sweep):
    sweep(0, ["seed=3", "k=1,2"], summary(2.0, versions={"torch": "2"}, device="cpu", flag=True))
    folder = sweep(1, ["k=2"], error='has, "quotes"')
    rows = list(csv.DictReader(io.StringIO(results_csv(read_rows(folder)))))
    assert rows[0]["k"] == "1,2"
    assert rows[0]["seed"] == "3"
    assert float(rows[0]["val/bpb"]) == 2.0
    assert rows[0]["error"] == ""
    assert rows[1]["val/bpb"] == ""
    assert rows[1]["error"] == 'has, "quotes"'
    assert not {"versions", "device", "flag"} & rows[0].keys()


def plotted(monkeypatch, rows, **axes):
    """The axes that a picture was made of."""
    from crystalline import tradeoff

    figures = []
    make_png = tradeoff._png
    monkeypatch.setattr(tradeoff, "_png", lambda f: figures.append(f) or make_png(f))
    picture = tradeoff_png(rows, **axes)
    assert picture is not None
    assert picture.startswith(PNG)
    return figures[0].axes[0]


def test_the_picture_shows_the_swept_number_and_a_line_for_each_other_setting(sweep, monkeypatch):
    for job, (model, weight) in enumerate((m, w) for m in "ab" for w in (0, 0.1, 0.001)):
        folder = sweep(job, [f"model={model}", f"weight={weight}"], summary(2.0 + job))
    axes = plotted(monkeypatch, read_rows(folder))
    assert axes.get_xlabel() == "weight"
    assert axes.get_ylabel() == "val/bpb"
    assert axes.get_xscale() == "symlog"
    assert [line.get_label() for line in axes.lines] == ["model=a", "model=b"]
    assert list(axes.lines[0].get_xdata()) == [0, 0.001, 0.1]
    assert list(axes.lines[0].get_ydata()) == [2.0, 4.0, 3.0]


def test_where_no_number_was_swept_the_picture_shows_entropy_or_parameters(sweep, monkeypatch):
    sweep(0, ["model=a"], summary(2.0, **{"codebook/entropy": 1.5}))
    folder = sweep(1, ["model=b"], summary(1.0, **{"codebook/entropy": 2.5}))
    assert plotted(monkeypatch, read_rows(folder)).get_xlabel() == "codebook/entropy"
    sweep(2, ["model=c"], summary(1.5))
    assert plotted(monkeypatch, read_rows(folder)).get_xlabel() == "parameters"


def test_the_picture_may_show_a_figure_of_the_summaries_along_lines_of_what_was_swept(
    sweep, monkeypatch
):
    for job, (k, weight) in enumerate((k, w) for k in (1, 4) for w in (0, 0.1, 0.001)):
        bits = {"test/code_bits": 10.0 * k - weight}
        folder = sweep(job, [f"k={k}", f"weight={weight}"], summary(2.0, 1 + job, **bits))
    rows = read_rows(folder)
    axes = plotted(monkeypatch, rows, x="test/code_bits", split="test")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("test/code_bits", "test/bpb")
    assert [line.get_label() for line in axes.lines] == ["k=1", "k=4"]
    assert list(axes.lines[0].get_xdata()) == [9.9, 9.999, 10.0]
    assert list(axes.lines[0].get_ydata()) == [2, 3, 1]
    assert plotted(monkeypatch, rows, x="no/such").get_xlabel() == "weight"
    page = report_markdown(rows, "Sweep")
    assert "| job | k | weight | test/bpb | val/bpb | test/code_bits |" in page


def test_there_is_no_picture_without_a_result(sweep):
    assert tradeoff_png(read_rows(sweep(0, ["k=1"], error="bad"))) is None


def test_the_spread_over_seeds_is_a_picture():
    long_name = "ziggurat, " + ", ".join(f"model.quantizer.key_{i}={i}" for i in range(5))
    assert spread_png({"a": [1.0], "b": [1.1], "far": [9.0]}, "test/bpb").startswith(PNG)
    assert spread_png({"a": [1.0, 2.0], long_name: [1.5]}, "test/bpb").startswith(PNG)


def test_matrices_and_intervals_are_pictures():
    labels = ("code", "state", "share")
    assert heat_png([[0.0, float("nan")], [1.0, 0.5]], None, None, labels).startswith(PNG)
    assert heat_png([[0.0]], ["layers.*.mlp"], ["state"], labels).startswith(PNG)
    bars = {"base": [(0.1, 0.0, 0.3)] * 2, "steered": [(0.9, 0.8, 1.0)] * 2}
    assert intervals_png(["fire", "dragon"], bars, "share").startswith(PNG)
