"""What the codes of a model of the state machine mean is measured once the run has been tested."""

import json

import pytest

from callbacks.machine_study import MachineStudy
from crystalline.errors import UserError
from tests.running import FSM, QUIET, SHORT, command, train

TINY = (
    "data=fsm",
    *FSM,
    "data.batch_size=8",
    "model=crystalline",
    "model.num_layers=1",
    "model.d_model=32",
    "model.num_heads=2",
    "model.codebook_size=32",
    "callbacks=states",
    "callbacks.machine_study.samples=8",
    "callbacks.machine_study.pairs=5",
    "callbacks.machine_study.sequences=20",
)


def run_states(folder, *more):
    return command("run", folder, *TINY, *QUIET, *SHORT, f"hydra.run.dir={folder}", *more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run_states(tmp_path_factory.mktemp("states"))


def test_the_figures_are_in_the_summary_and_all_else_in_the_run_folder(finished):
    assert finished.status == 0
    report = json.loads((finished.folder / "states.json").read_text())
    studied = {k: v for k, v in finished.summary.items() if k.startswith("study/")}
    assert studied == {f"study/{name}": value for name, value in report["figures"].items()}
    for name in ("transitions", "code_precision", "neuron_precision", "first_transition",
                 "effect all", "effect single"):  # fmt: skip
        assert f"study/{name}" in studied
    sites = {book["site"] for book in report["states"]["books"]}
    assert len(sites) == 3  # two heads and an MLP
    for name in ("state_codes.png", "interventions.png"):
        assert (finished.folder / name).read_bytes().startswith(b"\x89PNG")
    for name in ("state", "state_and_digit"):
        assert sites < set(report[f"patching/{name}"])


def test_data_without_states_is_refused_before_training(corpus, tmp_path, capfd):
    run = train(corpus, tmp_path, "callbacks=states", model="transformer")
    said = [line for line in capfd.readouterr().err.splitlines() if "crystalline.run: " in line]
    assert run.status == 1
    assert said == [
        "crystalline.run: callbacks.machine_study: only data=fsm has states; leave it out"
    ]
    assert not run.last.exists()


@pytest.mark.parametrize("name", ["sequences", "samples", "pairs"])
def test_a_number_below_one_is_named(name):
    numbers = {"sequences": 1, "samples": 1, "pairs": 1, "parts": [], "seed": 0}
    MachineStudy(**numbers)
    with pytest.raises(UserError, match=rf"callbacks\.machine_study\.{name}=0: give 1 or more"):
        MachineStudy(**{**numbers, name: 0})


def test_a_wrong_number_on_the_command_line_is_one_line(tmp_path, capfd):
    run = run_states(tmp_path, "callbacks.machine_study.pairs=0")
    assert run.status == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert said == "crystalline.run: callbacks.machine_study.pairs=0: give 1 or more"


@pytest.mark.slow
def test_a_machine_whose_digits_do_not_name_states_is_read_but_not_patched(tmp_path):
    run = run_states(tmp_path, "data.variant=hidden")
    assert run.status == 0
    assert "study/code_precision" in run.summary
    assert "study/effect single" not in run.summary
