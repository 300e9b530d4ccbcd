from itertools import product

import numpy as np
import pytest
import torch

from crystalline.export.runtime.build import SOURCES
from tests.crystalline.export.runtime.driving import EVEN, difference, reference, small_model
from tests.crystalline.export.runtime.schemes import WEIGHTS
from tests.crystalline.export.runtime.writing import write_model

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize(("mode", "attention", "layers"), [
    *product(["faithful", "repaired"], ["none", "first", "every"], [1, 2]),
    ("repaired", "every", 3),
])  # fmt: skip
def test_logits_are_those_of_pytorch(plain, file, mode, attention, layers):
    model = small_model(mode=mode, attention=attention, num_layers=layers)
    write_model(file, model)
    assert difference(plain, file, model) <= 1e-4


@pytest.mark.parametrize("scheme", WEIGHTS)
@pytest.mark.parametrize("sizes", [{}, EVEN], ids=["odd", "even"])
def test_every_scheme_means_what_it_says(plain, file, scheme, sizes):
    model = small_model(attention="every", num_layers=2, mode="faithful", **sizes)
    write_model(file, model, lambda name: scheme)
    assert difference(plain, file, model) <= 1e-4


def test_schemes_may_be_mixed(plain, file):
    model = small_model(attention="every", num_layers=2)
    names = {name: WEIGHTS[i % len(WEIGHTS)] for i, name in enumerate(model.state_dict())}
    write_model(file, model, names.__getitem__)
    assert difference(plain, file, model) <= 1e-4


@pytest.mark.parametrize("kernels", ["scalar", "avx2", "avx512", "neon"])
@pytest.mark.parametrize("scheme", ["f32", "f16", "int16_tensor", "int6_group", "int4_group"])
def test_every_instruction_set_agrees(plain, file, kernels, scheme):
    model = small_model(attention="every", num_layers=2, **EVEN | {"d_model": 68, "d_mlp": 90})
    write_model(file, model, lambda name: scheme)
    done = plain.run("-m", file, "--ids", "-p", 1, "-n", 1, "--kernels", kernels)
    if b"no such kernels" in done.stderr:
        pytest.skip(f"this machine has no {kernels}")
    assert difference(plain, file, model, "--kernels", kernels) <= 1e-4


def test_threads_change_nothing(plain, file):
    model = small_model(attention="every", num_layers=2, context_length=40, vocab_size=200)
    write_model(file, model)
    one = plain.steps(file, range(50), 5)
    three = plain.steps(file, range(50), 5, "--threads", 3)
    assert one[0] == three[0]
    assert np.array_equal(one[1], three[1])


def test_a_prompt_longer_than_the_window_is_cut_on_the_left(plain, file):
    model = small_model()
    write_model(file, model)
    prompt = [i % 37 for i in range(5, 60, 2)]
    drawn, logits = plain.steps(file, prompt, 3)
    assert np.abs(logits - reference(model, prompt, drawn)).max() <= 1e-4


def test_the_reach_of_all_neurons_has_a_factor(plain, file):
    model = small_model(annealing=[0.3, 1.0])
    write_model(file, model)
    assert difference(plain, file, model, count=3) <= 1e-4


def test_greedy_text_is_the_same_for_256_tokens(plain, file):
    torch.manual_seed(1)
    sizes = {"vocab_size": 300, "context_length": 32, "d_model": 64, "capacity": 100}
    model = small_model(founders=100, mode="faithful", attention="first", **sizes)
    write_model(file, model)
    drawn, text = plain.steps(file, [7], 256)[0], [7]
    with torch.no_grad():
        for _ in range(256):
            text.append(int(model(torch.tensor([text[-32:]])).logits[0, -1].argmax()))
    assert drawn == text[1:]
    assert len(set(drawn)) > 20  # not one token over and over


def test_sources_are_short():
    for path in [*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]:
        assert len(path.read_text().splitlines()) <= 400, path.name
