import re

import pytest
import torch
from hydra.utils import instantiate

from crystalline.equal_cost import cost_of, parameters, training_flops, widened
from crystalline.models.crystalline import Crystalline, Selection, Sites
from crystalline.models.transformer import Transformer
from tests.composing import composed
from tests.model_zoo import build
from tests.running import command

VOCAB, CONTEXT, WIDTH, LAYERS, HEADS, K = 30, 24, 16, 2, 2, 32


def transformer(d_model: int = WIDTH, d_mlp: int = 4 * WIDTH) -> Transformer:
    with torch.device("meta"):
        return Transformer(VOCAB, CONTEXT, d_model, LAYERS, HEADS, d_mlp)


def bottlenecked(mode: str = "codebook_features", size: int = K, **options) -> Crystalline:
    return Crystalline(
        VOCAB, CONTEXT, WIDTH, LAYERS, HEADS, size, 2, Sites(("attn_pre", "mlp")),
        Selection(**options), mode, temp_init=0.2,
    )  # fmt: skip


def test_operations_of_a_transformer_are_those_of_its_products():
    block = 2 * WIDTH * (3 * WIDTH + WIDTH + 8 * WIDTH)  # queries to values, output map, MLP
    attention = 2 * 2 * CONTEXT * WIDTH  # with all positions: scores, and what they weigh
    head = 2 * VOCAB * WIDTH
    forward = LAYERS * (block + attention) + head
    assert training_flops(transformer()) == 3 * forward  # two products backward for each forward
    plain = Transformer(VOCAB, CONTEXT, WIDTH, LAYERS, HEADS)
    assert training_flops(plain) == 3 * forward  # the device makes no difference


@pytest.mark.parametrize("budget", ["position", "batch"])
def test_a_search_compares_every_group_with_every_code(budget):
    extra = training_flops(bottlenecked(budget=budget)) - training_flops(transformer())
    assert extra == LAYERS * 2 * K * (WIDTH + WIDTH)  # all heads together, and the MLP


@pytest.mark.parametrize("name", ["ziggurat_1", "codebook_features"])
def test_the_fast_path_of_a_search_counts_as_the_plain_one_does(name):
    assert training_flops(build(name)) == training_flops(build(name).double())


@pytest.mark.parametrize(
    ("size", "cost"), [(16, parameters), (500, parameters), (500, training_flops)]
)
def test_a_widened_transformer_costs_the_same_within_a_percent(size, cost):
    target = cost(bottlenecked(size=size))
    found = widened(transformer, cost, target, multiple=2 * HEADS)
    assert found.d_model % (2 * HEADS) == 0
    again = transformer(found.d_model, found.d_mlp)
    assert cost(again) == pytest.approx(target, rel=0.01)
    assert cost_of(again) == found.cost


def test_a_model_that_is_too_cheap_leaves_the_narrowest_transformer():
    found = widened(transformer, parameters, 1, multiple=4)
    assert (found.d_model, found.d_mlp) == (4, 1)


def test_the_command_prints_overrides_that_cost_what_it_says(tmp_path, capfd):
    model = ("experiment=fsm_tiny", "model.mode=codebook_features", "model.num_layers=1")
    model += ("model.learned_positions=false",)  # which no plain transformer has
    model += ("model.d_model=16", "model.context_length=32", "model.codebook_size=512")
    run = command("match", tmp_path, *model)
    assert run.status == 0
    said = "".join(capfd.readouterr()).splitlines()
    lines = [line for line in said if line.startswith(("the model", "equal"))]
    assert len(lines) == 3
    figures = [[float(n.replace(",", "")) for n in re.findall(r" ([\d,]+)", x)] for x in lines]
    for column, (line, own) in enumerate(zip(lines[1:], figures[1:], strict=True)):
        assert own[column] == pytest.approx(figures[0][column], rel=0.01)
        widths = re.findall(r"model\.d_\w+=\d+", line)
        config = composed(*model, "model.sites.places=[]", *widths)
        baseline = instantiate(config.model, vocab_size=11, _convert_="all")
        assert parameters(baseline) == own[0]
        assert training_flops(baseline) == pytest.approx(own[1], abs=0.5)


@pytest.mark.slow
def test_a_model_of_bytes_is_matched_too(tmp_path, capfd):
    model = ("model=abstractinator", "data=lovecraft", "baseline.num_layers=1")
    run = command("match", tmp_path, *model)
    assert run.status == 0, capfd.readouterr().err


def test_a_baseline_that_lacks_a_number_is_one_line(tmp_path, capfd):
    run = command("match", tmp_path, "model=ziggurat", "data=fsm")
    assert run.status == 1
    assert capfd.readouterr().err == (
        "crystalline.match: Interpolation key 'model.num_layers' not found\n"
    )
