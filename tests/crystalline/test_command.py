"""The frame of every command: config in, one line out."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from crystalline.arguments import quote
from crystalline.command import CONF_DIR, run
from crystalline.errors import UserError

ROOT = """
defaults:
  - run_schema
  - _self_
  - model: big
  - hydra: default
  - experiment: null

seed: 0   # decides everything
ckpt_path: null
"""
MODEL = """
_target_: fractions.Fraction
numerator: 3
quantizer:
  codebook_size: 64
  num_codebooks: 4
rate: ${times:0.1,3}
"""
HYDRA = """
defaults:
  - override job_logging: plain
  - override hydra_logging: plain
run: {dir: outputs/one}
sweep: {dir: multirun/one, subdir: "${hydra.job.num}"}
"""


class Bug(Exception):
    pass


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A small tree of configs, in an empty working folder."""
    conf = tmp_path / "conf"
    files = {
        "config.yaml": ROOT,
        "free.yaml": "defaults: [_self_, {hydra: inline}]\nprompt: ''\n",
        "model/big.yaml": MODEL,
        "model/small.yaml": "defaults:\n  - /part@part: round\n  - _self_\n" + MODEL,
        "part/round.yaml": "radius: 1\n",
        "model/_base.yaml": MODEL,
        "experiment/misspelt.yaml": "# @package _global_\ntrainr: {max_steps: 1}\n",
        "hydra/default.yaml": HYDRA,
    }
    for kind in ("job_logging/plain", "job_logging/console", "hydra_logging/plain", "inline"):
        files[f"hydra/{kind}.yaml"] = (CONF_DIR / "hydra" / f"{kind}.yaml").read_text()
    for name, text in files.items():
        path = conf / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return conf


@pytest.fixture
def call(conf, monkeypatch):
    """Calls a task as the command line would; returns the exit status and the configs it saw."""

    def call(*arguments, task=lambda config: None, **options):
        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        seen: list[DictConfig] = []

        def noting(config):
            seen.append(config)
            return task(config)

        try:
            run(noting, command="run", conf_dir=conf, **options)
        except SystemExit as stop:
            return stop.code, seen
        return 0, seen

    return call


def fail(error):
    def task(config):
        raise error

    return task


def test_the_task_receives_the_config_and_its_lines_go_to_terminal_and_run_folder(call, capfd):
    status, seen = call("seed=4", task=lambda c: logging.getLogger("x").info("seed is %d", c.seed))
    assert status == 0
    assert seen[0].seed == 4
    assert seen[0].model.rate == pytest.approx(0.3)
    assert Path("outputs/one/run.log").read_text() == "seed is 4\n"
    assert Path("outputs/one/.hydra/config.yaml").exists()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "seed is 4\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["model=smal"], "there is no such model; did you mean small? valid: big, small"),
        (["-m", "model=big,smal"], "model=smal: there is no such model"),
        (
            ["model.quantizer.codebok_size=3"],
            "model.quantizer.codebok_size: there is no such key; did you mean codebook_size?"
            " valid: codebook_size, num_codebooks",
        ),
        (["model.quantiser.codebook_size=3"], "model.quantiser: there is no such key; did"),
        (["-m", "model.quantizer.codebok_size=3,4"], "did you mean codebook_size?"),
        (["model=small", "modle=big"], "modle: there is no such key; did you mean model?"),
        (["model.denominator=2"], "write +model.denominator=<value>"),
        (["seed.value=1"], "seed.value=1: the key is a value, it has no keys below"),
        (["experiment=misspelt"], "conf/experiment/misspelt.yaml: there is no key trainr; did"),
        (["seed=many"], "seed=many: Value 'many' of type 'str' could not be converted to Integer"),
        (["seed=["], "cannot read seed=["),
        (["steps"], "cannot read steps; write key=value"),
        (["seed=1,2"], "add -m for a sweep"),
        (["--max-steps=3"], "unknown option --max-steps; write max_steps=<value>"),
        (["ckpt_path=none/last.ckpt"], "ckpt_path=none/last.ckpt: no such file; give <run>/"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_line_that_says_what_to_do(call, capfd, arguments, expected):
    status, seen = call(*arguments)
    out, err = capfd.readouterr()
    assert status == 1
    assert not seen
    assert out == ""
    assert err.startswith("crystalline.run: ")
    assert err.count("\n") == 1
    assert expected in err


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (fail(UserError("seed 3 is bad; use 4")), "seed 3 is bad; use 4"),
        (fail(Bug("strange\nmore")), "Bug: strange; HYDRA_FULL_ERROR=1 shows the traceback"),
        (fail(OSError(28, "No space left on device", "x.ckpt")), "the disk is full (x.ckpt); free"),
        (fail(MemoryError()), "out of memory; a smaller batch"),
        (
            lambda c: instantiate(c.model),
            "model.quantizer: fractions.Fraction has no such key",
        ),
        (
            lambda c: instantiate({"_target_": "fractions.Fraction", "numeratr": 1}),
            "has no such key; did you mean numerator? valid: denominator, numerator",
        ),
        (
            lambda c: instantiate({"a": {"_target_": "fractions.Fraction", "numerator": "x"}}),
            "a: Invalid literal for Fraction: 'x'",
        ),
        (lambda c: c.model.nothing, "Key 'nothing' is not in struct"),
        (lambda c: c.data, "data is not set; add data=<value>"),
    ],
)
def test_an_error_of_a_task_is_one_line_kept_in_the_run_folder(call, capfd, task, expected):
    status, _ = call(task=task)
    _, err = capfd.readouterr()
    assert status == 1
    assert err.count("\n") == 1
    assert expected in err
    assert err == "crystalline.run: " + Path("outputs/one/error.txt").read_text()
    assert "Traceback" in Path("outputs/one/run.log").read_text()


def test_a_run_that_succeeds_takes_the_error_of_an_earlier_one_away(call):
    call(task=fail(Bug("once")))
    assert Path("outputs/one/error.txt").exists()
    assert call()[0] == 0
    assert not Path("outputs/one/error.txt").exists()


def test_the_full_error_is_raised_when_the_user_wants_it(call, monkeypatch, capfd):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert call(task=fail(Bug("strange")))[0] == 1
    assert "Traceback" in capfd.readouterr().err


def test_the_task_sees_the_arguments_and_the_environment_of_the_user(call, monkeypatch):
    import os

    seen = []
    call("seed=1", task=lambda c: seen.append((sys.argv[1:], os.environ.get("HYDRA_FULL_ERROR"))))
    assert seen == [(["seed=1"], None)]


def test_ctrl_c_ends_with_status_130_also_when_lightning_has_caught_it(call, capfd):
    def as_lightning_does(config):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    assert call(task=fail(KeyboardInterrupt()))[0] == 130
    assert call(task=as_lightning_does)[0] == 130
    assert capfd.readouterr().err == "crystalline.run: interrupted\n" * 2


def test_failed_jobs_of_a_sweep_leave_the_others_and_the_status_is_1(call, capfd):
    def task(config):
        if config.seed == 1:
            raise UserError("seed 1 is bad; use 2")
        Path(f"seed_{config.seed}").touch()

    status, seen = call("-m", "seed=0,1,2", task=task)
    assert status == 1
    assert [config.seed for config in seen] == [0, 1, 2]
    assert Path("seed_0").exists()
    assert Path("seed_2").exists()
    assert Path("multirun/one/1/error.txt").read_text() == "seed 1 is bad; use 2\n"
    assert not Path("multirun/one/2/error.txt").exists()
    errors = [line for line in capfd.readouterr().err.splitlines() if "crystalline.run" in line]
    assert errors == ["crystalline.run: job 1: seed 1 is bad; use 2"]


def test_a_resumed_run_goes_on_in_its_folder_and_keeps_the_saved_config(call, tmp_path):
    call("seed=1")
    config = Path("outputs/one/.hydra/config.yaml").read_text()
    folder = tmp_path / "a folder, with=signs"
    Path("outputs/one").rename(folder)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    status, seen = call(f"ckpt_path={checkpoint}", task=lambda c: logging.info("resumed"))
    assert status == 0
    assert seen[0].ckpt_path == str(checkpoint)
    assert (folder / ".hydra" / "config.yaml").read_text() == config
    assert (folder / "run.log").read_text().endswith("resumed\n")
    assert not Path("outputs/one").exists()


def test_free_text_reaches_the_task_unchanged_and_leaves_no_folder(call, monkeypatch):
    text = """He said, "it's (a) = b" [${x}] \\"""
    _, seen = call(f"prompt={text}", config_name="free", text_keys=("prompt",))
    assert seen[0].prompt == text
    with Path("input").open("w+") as file:
        file.write("two\nlines\n")
        file.seek(0)
        monkeypatch.setattr(sys, "stdin", file)
        _, seen = call("prompt=-", config_name="free", text_keys=("prompt",))
    assert seen[0].prompt == "two\nlines\n"
    Path("input").unlink()
    assert list(Path().iterdir()) == []


@settings(deadline=None, max_examples=200)
@given(st.text() | st.text(alphabet="\\\"'${}x, =[", max_size=8))
def test_any_text_survives_the_grammar_and_the_config(text):
    if text == "???":
        return  # means "missing" to OmegaConf: refused
    override = OverridesParser.create().parse_override(f"prompt={quote(text)}")
    assert OmegaConf.create({"prompt": override.value()}).prompt == text
    in_sweep = f"prompt={override.get_value_element_as_str()}"
    again = OverridesParser.create().parse_override(in_sweep)
    assert OmegaConf.create({"prompt": again.value()}).prompt == text


def test_hydras_own_flags_may_stand_between_overrides(call, capfd):
    status, seen = call("seed=4", "--cfg", "job", "model.quantizer.codebook_size=9")
    assert (status, seen) == (0, [])
    shown = capfd.readouterr().out
    assert "seed: 4\n" in shown
    assert "codebook_size: 9\n" in shown


def test_help_shows_groups_choices_and_keys(call, capsys):
    assert call("--help")[0] == 0
    text = capsys.readouterr().out
    assert "The frame of every command" in text  # the docstring of the task's module
    assert "model            *big small\n" in text
    assert "experiment       misspelt\n" in text
    assert "part@model.part  round\n" in text
    assert "seed: 0   # decides everything" in text
    assert "run_schema" not in text


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; sys.argv = ['report', '--help']\n"
        "from crystalline.report import main; main()\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=CONF_DIR.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "results_dir: docs/results" in done.stdout
