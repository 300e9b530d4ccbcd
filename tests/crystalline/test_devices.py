import pytest
import torch
from omegaconf import OmegaConf

from crystalline.devices import Devices, resolve_devices
from crystalline.errors import UserError


@pytest.fixture
def machine(monkeypatch):
    """Sets how many GPUs and cores torch can see."""

    def set_to(gpus: int, cores: int = 4):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.multiprocessing, "cpu_count", lambda: cores)

    return set_to


def resolve(accelerator="auto", devices=1, precision=None) -> Devices:
    return resolve_devices(
        OmegaConf.create({"accelerator": accelerator, "devices": devices, "precision": precision})
    )


def test_a_gpu_is_used_where_there_is_one_in_bf16(machine):
    machine(gpus=2)
    assert resolve() == Devices("gpu", 1, "bf16-mixed")
    assert resolve("gpu", "auto") == Devices("gpu", 2, "bf16-mixed")
    assert resolve("cpu") == Devices("cpu", 1, "32-true")
    assert resolve("gpu", 2, "32-true") == Devices("gpu", 2, "32-true")


def test_without_one_the_cpu_is_used_in_fp32(machine):
    machine(gpus=0)
    assert resolve() == Devices("cpu", 1, "32-true")
    assert resolve("cpu", "auto") == Devices("cpu", 1, "32-true")
    assert resolve("cpu", 3) == Devices("cpu", 3, "32-true")


@pytest.mark.parametrize(
    ("gpus", "arguments", "line"),
    [
        (0, ("gpu",), "this machine has no GPU"),
        (0, ("cpu", 8), "trainer.devices=8, but this machine has 4 CPU cores"),
        (2, ("gpu", 8), "trainer.devices=8, but this machine has 2 GPU"),
        (0, ("tpu",), "trainer.accelerator must be auto, cpu or gpu, got 'tpu'"),
        (0, ("cpu", 0), "trainer.devices must be a positive number or auto, got 0"),
        (0, ("cpu", "many"), "trainer.devices must be a positive number or auto, got 'many'"),
    ],
)
def test_devices_that_are_not_there_are_one_line(machine, gpus, arguments, line):
    machine(gpus)
    with pytest.raises(UserError, match=line.replace("(", r"\(")):
        resolve(*arguments)
