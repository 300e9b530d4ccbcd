import torch

from crystalline.models.transformer import Transformer
from tests.running import train


def test_every_site_and_the_mean_of_every_layer_is_logged(corpus, tmp_path, monkeypatch):
    values = {
        "layers.0.attn.group.1": torch.tensor(0.5),
        "layers.0.mlp": torch.tensor([1.0, 2.0]),
        "layers.2.mlp": torch.tensor(3.0),
        "head": torch.tensor(4.0),
    }
    monkeypatch.setattr(Transformer, "temperatures", lambda self: values)
    run = train(corpus, tmp_path, "trainer.log_every_n_steps=2", model="transformer")
    assert run.column("step") == ["2", "4"]
    found = {n: float(v) for n, v in run.rows[-1].items() if n.startswith("temperature/")}
    assert found == {
        "temperature/layers.0.attn.group.1": 0.5,
        "temperature/layers.0.mlp": 1.5,
        "temperature/layers.2.mlp": 3.0,
        "temperature/head": 4.0,
        "temperature/layer_0": 1.0,
        "temperature/layer_2": 3.0,
    }
    assert (run.folder / "temperatures.png").read_bytes().startswith(b"\x89PNG")
    last = {name: v for name, v in run.summary.items() if name.startswith("temperature/")}
    assert last == {"temperature/layer_0": 1.0, "temperature/layer_2": 3.0}


def test_a_model_without_temperatures_logs_none(corpus, tmp_path):
    run = train(corpus, tmp_path, model="transformer")
    assert not any(name.startswith("temperature/") for name in run.rows[0])
    assert not (run.folder / "temperatures.png").exists()
