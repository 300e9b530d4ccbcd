"""metrics.csv: readable at any time, exact, and kept when a run resumes."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from callbacks.csv_logger import CSVLogger


@pytest.fixture
def logger(tmp_path):
    logger = CSVLogger(tmp_path)
    yield logger
    logger.finalize("success")


def lines(folder: Path) -> list[str]:
    return (folder / "metrics.csv").read_text().splitlines()


def test_a_step_is_one_row_however_often_it_is_logged(logger, tmp_path):
    logger.log_metrics({"loss/total": 2.0, "lr": 0.1}, step=1)
    logger.log_metrics({"loss/total": 1.5}, step=2)
    logger.log_metrics({"lr": 0.05}, step=2)
    logger.log_metrics({"loss/total": 1.25, "lr": 0.025}, step=3)
    expected = ["step,loss/total,lr", "1,2.0,0.1", "2,1.5,0.05", "3,1.25,0.025"]
    assert lines(tmp_path) == expected


def test_a_row_can_be_read_as_soon_as_it_is_logged_and_a_shorter_value_leaves_no_rest(
    logger, tmp_path
):
    logger.log_metrics({"a": 0.123456789}, step=1)
    assert lines(tmp_path) == ["step,a", "1,0.123456789"]
    logger.log_metrics({"a": 0.5}, step=1)
    assert lines(tmp_path) == ["step,a", "1,0.5"]


def test_a_new_metric_becomes_a_column_of_all_rows(logger, tmp_path):
    logger.log_metrics({"a": 1}, step=1)
    logger.log_metrics({"a": 2, "val/loss": 3.0, "b,c": 4}, step=2)
    logger.log_metrics({"a": 5}, step=3)
    assert lines(tmp_path) == ['step,a,val/loss,"b,c"', "1,1,,", "2,2,3.0,4", "3,5,,"]


def test_what_is_logged_after_the_end_joins_the_last_row(logger, tmp_path):
    logger.log_metrics({"a": 1.0}, step=7)
    logger.finalize("success")
    logger.log_metrics({"test/loss": torch.tensor(2.5)}, step=7)
    logger.finalize("success")
    assert lines(tmp_path) == ["step,a,test/loss", "7,1.0,2.5"]


@given(value=st.floats(), width=st.sampled_from([torch.float32, torch.float64]))
def test_reading_gives_the_same_number_back(tmp_path_factory, value, width):
    folder = tmp_path_factory.mktemp("csv")
    logger = CSVLogger(folder)
    tensor = torch.tensor(value, dtype=width)
    logger.log_metrics({"a": tensor}, step=1)
    logger.finalize("success")
    back = float(lines(folder)[1].split(",")[1])
    assert back == tensor.item() or (math.isnan(back) and math.isnan(value))


def test_resuming_keeps_the_rows_up_to_the_checkpoint_and_goes_on(logger, tmp_path):
    for step in range(1, 6):
        logger.log_metrics({"loss/total": 1 / step}, step=step)
        if step % 3 == 0:
            logger.log_metrics({"val/loss": 0.5}, step=step)
    resumed = CSVLogger(tmp_path)
    resumed.resume_at(3)
    assert lines(tmp_path)[3:] == ["3,0.3333333333333333,0.5"]
    resumed.log_metrics({"val/loss": 0.25}, step=3)
    resumed.log_metrics({"loss/total": 0.125, "lr": 1}, step=4)
    resumed.finalize("success")
    assert lines(tmp_path) == [
        "step,loss/total,val/loss,lr",
        "1,1.0,,",
        "2,0.5,,",
        "3,0.3333333333333333,0.25,",
        "4,0.125,,1",
    ]


def test_resuming_drops_a_torn_last_line(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,a,b\n1,0.5,2\n2,0.25,3\n3,0.1")
    logger = CSVLogger(tmp_path)
    logger.resume_at(10)
    logger.log_metrics({"a": 0.125, "b": 4}, step=3)
    logger.finalize("success")
    assert lines(tmp_path) == ["step,a,b", "1,0.5,2", "2,0.25,3", "3,0.125,4"]


def test_resuming_without_a_file_starts_one(logger, tmp_path):
    logger.resume_at(10)
    logger.log_metrics({"a": 1}, step=11)
    assert lines(tmp_path) == ["step,a", "11,1"]


def test_a_new_run_in_the_same_folder_starts_anew(logger, tmp_path):
    logger.log_metrics({"old": 1}, step=1)
    fresh = CSVLogger(tmp_path)
    fresh.log_metrics({"new": 2}, step=1)
    fresh.finalize("success")
    assert lines(tmp_path) == ["step,new", "1,2"]


def test_other_ranks_write_nothing(logger, tmp_path, monkeypatch):
    from lightning.pytorch.utilities import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger.log_metrics({"a": 1}, step=1)
    logger.resume_at(3)
    assert not (tmp_path / "metrics.csv").exists()
