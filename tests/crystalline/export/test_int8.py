"""Rounding within its bound, for what gets smaller by it; files that read back and score alike."""

import json

import pytest
import torch

import crystalline
from crystalline.checkpoint import read
from crystalline.errors import UserError
from crystalline.export import container
from crystalline.export.int8 import dequantize, quantize, shrinks
from tests.running import command, train


def test_no_weight_moves_by_more_than_half_a_step_of_its_row():
    torch.manual_seed(0)
    scales = torch.tensor([1e-12, 1e-3, 1.0, 1e6])[:, None, None]
    weights = torch.randn(4, 3, 50) * scales
    back = dequantize(quantize({"w": weights}, {"w"}))["w"]
    steps = weights.abs().amax(-1, keepdim=True) / 127
    assert ((back - weights).abs() <= 0.5001 * steps).all()
    assert ((back - weights).norm() / weights.norm()) < 0.01  # no floor below which all is lost
    assert torch.equal(back.abs().amax(-1) > 0, weights.abs().amax(-1) > 0)


def test_by_hand():
    weights = torch.tensor([[1.27, -0.5, 0.004], [0, 0, 0]])
    found = quantize({"w": weights, "b": torch.ones(2)}, {"w", "b"})
    assert found["w"]["values"].tolist() == [[127, -50, 0], [0, 0, 0]]
    assert found["w"]["scales"].flatten().tolist() == pytest.approx([0.01, 0])
    assert found["b"].tolist() == [1, 1]


def test_what_does_not_get_smaller_or_is_not_named_is_kept():
    assert shrinks(torch.ones(1024, 8))  # 64 KiB as fp32, small as it may be
    assert shrinks(torch.ones(5, 2))
    assert not shrinks(torch.ones(5, 1))
    assert not shrinks(torch.ones(100))
    assert not shrinks(torch.ones(5, 4, dtype=torch.bfloat16))
    assert shrinks(torch.ones(5, 5, dtype=torch.bfloat16))
    assert not shrinks(torch.ones(5, 50, dtype=torch.int64))
    kept = torch.ones(50, 50)
    assert quantize({"counts": kept}, set())["counts"] is kept


def test_tied_tensors_stay_one():
    tied = torch.randn(6, 6)
    found = quantize({"in": tied, "out": tied}, {"in", "out"})
    assert found["in"] is found["out"]


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="w is not finite"):
        quantize({"w": torch.full((4, 4), float("nan"))}, {"w"})


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    return train(corpus, tmp_path_factory.mktemp("ziggurat"), "trainer.max_steps=10")


def export(finished, *more):
    return command("export.__main__", finished.folder, f"checkpoint={finished.best}", *more)


def test_an_export_is_smaller_and_costs_next_to_nothing(finished, tmp_path, capfd):
    output = tmp_path / "small.bin"
    assert export(finished, f"output={output}").status == 0
    said = capfd.readouterr().err
    assert "val/loss" in said
    assert "val/bpb" in said
    before, after = crystalline.load(finished.best), crystalline.load(output)
    plain = sum(4 * p.numel() for p in before.model.parameters())
    assert output.stat().st_size < 0.6 * plain  # with config and tokenizer, of a tiny model
    for name, weight in before.model.state_dict().items():
        found = after.model.state_dict()[name]
        if weight.is_floating_point() and weight.ndim > 1:
            steps = weight.abs().amax(-1, keepdim=True) / 127
            assert ((found - weight).abs() <= 0.5001 * steps).all(), name
        else:
            assert torch.equal(found, weight), name
    assert after.step == before.step
    assert command("evaluate", tmp_path, f"checkpoint={output}", "split=val").status == 0
    loss = json.loads((tmp_path / "evaluation.json").read_text())["val/loss"]
    assert loss == pytest.approx(finished.summary["val/loss"], abs=0.01)


def test_damage_and_unknown_precisions_are_one_line(finished, tmp_path, capfd):
    output = tmp_path / "small.bin"
    assert export(finished, f"output={output}", "split=null").status == 0
    content = output.read_bytes()
    output.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged"):
        read(output)
    capfd.readouterr()
    assert export(finished, "precision=int8_row").status == 1
    assert "did you mean int8_rows?" in capfd.readouterr().err
    assert export(finished, "split=all").status == 1
    assert export(finished, f"output={finished.best}").status == 1
    assert not container.is_export(finished.best)
