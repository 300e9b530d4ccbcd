import pytest

from crystalline.depth_trends import by_layer, depth_trends
from crystalline.results import Row

BY, CONTROL = ["data.shuffle", "model.weight"], "shuffle=true"


def row(seed, shuffle, curve, weight="0"):
    overrides = {"seed": str(seed), "data.shuffle": shuffle, "model.weight": weight}
    layers = {f"temperature/layer_{i}": value for i, value in enumerate(curve)}
    return Row(str(seed), overrides, layers | {"temperature/layers.0.mlp": 9.0}, None)


def trends(rows):
    return depth_trends(rows, BY, ["temperature", "hardening"], CONTROL)


def test_layers_are_in_the_order_of_their_numbers():
    curve = [float(i) for i in range(12)]
    assert by_layer(row(0, "false", curve), "temperature") == curve


def test_an_arm_that_falls_with_depth_is_told_from_its_control():
    cooling = [row(seed, "false", [4, 3, 2, 1]) for seed in range(4)]
    shuffled = [row(seed, "true", c) for seed, c in enumerate([[1, 2, 4, 3], [2, 1, 3, 4]] * 2)]
    found = trends([*cooling, *shuffled, row(0, "false", [1, 2, 3, 4], weight="1")])
    arm = "shuffle=false weight=0"
    assert found[f"temperature rho, {arm}"] == pytest.approx(-1)
    assert found[f"temperature agreement, {arm}"] == 1
    assert found[f"temperature runs, {arm}"] == 4
    assert found[f"temperature p, {arm}"] < 0.001
    assert found[f"temperature differs p, {arm}"] == pytest.approx(2 / 70)
    assert found["temperature rho, shuffle=true weight=0"] == pytest.approx(0.8)
    assert "temperature differs p, shuffle=false weight=1" not in found  # it has no control here
    assert not any(name.startswith("hardening") for name in found)


def test_jobs_without_the_figures_say_nothing():
    assert trends([Row("0", {}, {"val/loss": 1.0}, None), Row("1", {}, None, "failed")]) == {}
    assert trends([row(0, "false", [2, 2, 2])]) == {}  # no order
