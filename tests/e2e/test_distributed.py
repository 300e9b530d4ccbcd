"""Two processes train as one does, in a sweep too."""

import math
import signal
from pathlib import Path

import pytest

from crystalline import checkpoint
from tests.running import Finished, arguments, process, train
from tests.selection import often

OPTIONS = (
    "trainer.max_steps=6",
    "trainer.val_check_interval=3",
    "callbacks.dead_codes={every_n_steps: 2, idle_positions: 30, max_fraction: 0.5, until: 1.0}",
    "callbacks.codebook_init.every_n_steps=5",
    "callbacks.codebook_init.until=1.0",
    "callbacks.usage.positions=300",
    "objective.accumulate=2",
    "optimizer.eps=1e-3",  # Adam would make a large step of a rounding error
)
UPDATES = ("ema", "gradient")


@pytest.fixture(scope="module", params=often((1, 2), 1))
def updates(request) -> tuple[str, ...]:
    """One a job."""
    return UPDATES[: request.param]


@pytest.fixture(scope="module")
def sweep(updates, corpus, tmp_path_factory) -> Finished:
    """Jobs of two processes each."""
    cwd = tmp_path_factory.mktemp("sweep")
    typed = arguments(corpus, cwd / "unused", *OPTIONS)
    typed = [argument for argument in typed if not argument.startswith("hydra.run")]
    return process(
        "run",
        cwd,
        "-m",
        *typed,
        "trainer=ddp_cpu",
        f"model.quantizer.update={','.join(updates)}",
        "hydra.sweep.dir=sweep",
    )


def job(sweep: Finished, update: str) -> Finished:
    return Finished(0, sweep.folder / "sweep" / str(UPDATES.index(update)))


def numbers(run: Finished, *prefixes: str) -> dict[tuple[str, str], float]:
    return {k: float(v) for k, v in run.losses().items() if k[1].startswith(prefixes)}


def test_a_sweep_of_jobs_with_two_processes_each_leaves_their_run_folders(sweep, updates):
    assert sweep.status == 0, sweep.err
    folders = [path.parent for path in sweep.folder.rglob("summary.json")]
    assert sorted(folders) == [job(sweep, update).folder for update in updates]
    assert {path.name for path in sweep.folder.iterdir()} == {"sweep"}
    assert (sweep.folder / "sweep" / "report.md").is_file()
    assert not list(sweep.folder.rglob(".distributed*"))


def test_two_processes_equal_one_at_the_same_global_batch(sweep, updates, corpus, tmp_path):
    for update in updates:
        one = train(corpus, tmp_path / update, *OPTIONS, f"model.quantizer.update={update}")
        assert one.status == 0
        assert_same(one, job(sweep, update))


def assert_same(one: Finished, two: Finished) -> None:
    """Two processes in `two`."""
    assert two.summary["devices"] == 2
    exact = ("loss/", "val/", "codebook/", "lr/")
    assert len(numbers(one, *exact)) > 30
    assert numbers(two, *exact) == pytest.approx(numbers(one, *exact), rel=1e-5, abs=1e-5)
    norms = numbers(one, "grad_norm/")
    assert numbers(two, "grad_norm/") == pytest.approx(norms, rel=1e-3)  # sums in another order
    revived = [row["codebook/revived"] for row in one.rows if row.get("codebook/revived")]
    assert sum(map(float, revived)) > 0
    assert [row["step"] for row in two.rows] == [row["step"] for row in one.rows]
    for split in ("val", "test", "train"):
        for figure in ("loss", "bpb"):
            name = f"{split}/{figure}"
            assert two.summary[name] == pytest.approx(one.summary[name], rel=1e-5), name
    assert two.summary["tokens_seen"] == one.summary["tokens_seen"]


def test_the_summary_says_what_the_user_typed(sweep):
    summary = job(sweep, "ema").summary
    assert summary["command"].startswith("python -m crystalline.run -m model=ziggurat ")
    assert "model.quantizer.update=ema" in summary["overrides"]
    assert summary["choices"]["trainer"] == "ddp_cpu"
    assert math.isfinite(summary["tokens_per_second"])


def test_the_log_of_a_job_has_its_lines_once(sweep, updates):
    text = (sweep.folder / "sweep" / "0" / "run.log").read_text()
    assert text.count("summary: ") == 1
    assert sweep.err.count("6 rounds of 64 tokens") == len(updates)


@pytest.mark.slow
def test_the_source_mode_trains_although_its_upper_stages_get_no_gradient_and_stops_when_asked(
    corpus, tmp_path
):
    stop = "+callbacks.stop={_target_: tests.running.StopStarter, step: 3}"
    typed = arguments(corpus, Path("run"), "trainer=ddp_cpu", "model.mode=source", stop)
    run = process("run", tmp_path, *typed, "trainer.max_steps=200", "trainer.log_every_n_steps=50")
    assert run.status == 128 + signal.SIGTERM, run.err
    assert "go on with ckpt_path=run/checkpoints/last.ckpt" in run.err
    assert "Traceback" not in run.err
    state = checkpoint.read(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert 3 < state["global_step"] < 200


@pytest.mark.slow
def test_an_error_in_the_processes_is_one_line(corpus, tmp_path, capfd):
    run = train(corpus, tmp_path, "trainer=ddp_cpu", "data.batch_size=5")
    assert run.status == 1
    said = capfd.readouterr().err
    line = "data.batch_size=5 cannot be shared by 2 processes; take a multiple of 2"
    assert said.splitlines()[-1] == f"crystalline.run: {line}"
    assert "Traceback" not in said
    assert (tmp_path / "error.txt").read_text() == line + "\n"


@pytest.mark.slow
def test_a_pyramid_that_moves_cuts_and_codes_learns_on_two_processes_as_on_one(corpus, tmp_path):
    options = (
        *OPTIONS,
        *("model.num_levels=2", "model.quantizer.update=ema"),
        "model.segmentation={min_mean_length: 1.5, mean_length: 3.0, theta_bits: 4.0}",
    )
    one = train(corpus, tmp_path / "one", *options, model="abstractinator")
    typed = arguments(corpus, tmp_path / "two", *options, model="abstractinator")
    two = process("run", tmp_path, *typed, "trainer=ddp_cpu")
    assert two.status == 0, two.err
    two = Finished(0, tmp_path / "two")
    states = [checkpoint.load(run.last).model.state_dict() for run in (one, two)]
    moved = [name for name in states[0] if name.endswith("segmenter.threshold")]
    assert len(moved) == 2
    for name in moved:  # symbols and segments are counted over all processes
        assert states[0][name] != 4.0
        assert float(states[1][name]) == pytest.approx(float(states[0][name]), rel=1e-3)
    # Means over segments are those of a process, of which each has another number.
    assert two.summary["val/loss"] == pytest.approx(one.summary["val/loss"], rel=1e-2)
