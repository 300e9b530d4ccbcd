"""The cases of `suite=quantizers`, at sizes of a unit test, and the command around them."""

import json
import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from crystalline.benchmark.quantizers import PEER, ResidualCase
from crystalline.benchmark.timing import UnavailableError
from crystalline.command import CONF_DIR
from tests.running import command

CPU = torch.device("cpu")
TINY = ResidualCase(points=60, d_model=6, num_codebooks=3, codebook_size=8, devices=["cpu"])
SIZES = ("points=60", "d_model=6", "num_codebooks=2", "codebook_size=8")


def test_all_choose_what_the_reference_chooses():
    reference = TINY.reference(CPU)
    assert reference.shape == (60, 3)
    contestants = TINY.contestants(CPU)
    assert TINY.baseline in contestants
    assert len(contestants) == 7
    for name, call in contestants.items():
        assert torch.equal(call(), reference), name


def test_every_call_computes_gradients_of_points_and_of_learned_codes(monkeypatch):
    from torch import autograd

    asked = []

    def grad(outputs, inputs, grad_outputs):
        found = real(outputs, inputs, grad_outputs)
        asked.append([tensor.abs().sum().item() for tensor in found])
        return found

    real = autograd.grad
    monkeypatch.setattr(autograd, "grad", grad)
    for name, call in TINY.contestants(CPU).items():
        call()
        by_gradient = "ema" not in name
        books = TINY.num_codebooks if name.startswith(PEER) else 1
        assert len(asked[-1]) == 1 + by_gradient * books, name
        assert min(asked[-1]) > 0, name


def test_running_means_move_codes_and_learned_ones_wait_for_an_optimizer():
    for name, call in TINY.contestants(CPU).items():
        answers = torch.stack([call() for _ in range(20)])
        assert torch.equal(answers[0], answers[-1]) is ("ema" not in name), name


def test_without_the_peer_its_rows_say_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vector_quantize_pytorch", None)
    contestants = TINY.contestants(CPU)
    contestants["crystalline, ema"]()
    with pytest.raises(UnavailableError, match=r"pip install 'crystalline-lm\[bench\]'"):
        contestants[TINY.baseline]()


def test_the_suite_has_small_cases_for_a_cpu_and_all_for_a_gpu():
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("benchmark", ["suite=quantizers"])
    cases = instantiate(config.suite, _convert_="all")
    on_cpu = [name for name, case in cases.items() if "cpu" in case.devices]
    assert on_cpu == ["residual_small", "vector_small", "top_k_small"]
    assert all("cuda" in case.devices for case in cases.values())
    sizes = {name: (case.points, case.codebook_size) for name, case in cases.items()}
    assert sizes["residual_huge_books"] == (65536, 16384)


def benchmark(folder, *typed):
    return command("benchmark.__main__", folder, f"output={folder}/found.json", *typed)


def test_a_named_case_runs_whatever_its_devices(tmp_path, capfd):
    sizes = [f"suite.residual_large.{size}" for size in SIZES]
    typed = ["device=cpu", "cases=residual_large", "warmup=1", "repeats=2", *sizes]
    assert benchmark(tmp_path, *typed).status == 0
    assert "residual_large: 60 points of width 6, 2 x 8 codes" in capfd.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert {row["calls"] for row in found["rows"]} == {2}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["suite=quantisers"], "there is no such suite; did you mean quantizers?"),
        (["device=gpu"], "device must be auto, cpu or cuda, got 'gpu'"),
        (["device=cuda"], "device=cuda: this machine has no GPU that torch can use"),
        (["cases=[residual_smal]"], "there is no 'residual_smal'; did you mean residual_small?"),
        (["repeats=0"], "repeats=0: give 1 or more"),
        (["warmup=few"], "warmup=few: give a whole number"),
        (["suite.vector_small.points=0"], "suite.vector_small: points, d_model, "),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(tmp_path, capfd, monkeypatch, arguments, line):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark(tmp_path, *arguments).status == 1
    said = capfd.readouterr().err
    assert said.startswith("crystalline.benchmark: ")
    assert line in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
