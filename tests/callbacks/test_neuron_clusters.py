"""Clusters of neurons are compared with their families once the run has been tested."""

import json
from unittest.mock import MagicMock

import pytest
from lightning import Trainer

from callbacks.neuron_clusters import NeuronClusters
from crystalline.errors import UserError
from tests.callbacks.growing_run import GROWING
from tests.running import train
from tests.tiny_models import Plain

NUMBERS = {"positions": 1, "distances": [1.0], "permutations": 1, "seed": 0}


def test_figures_are_in_the_summary_and_every_cut_in_the_run_folder(corpus, tmp_path):
    options = "callbacks.neuron_clusters={positions: 200, permutations: 9, distances: [1e-6]}"
    run = train(
        corpus, tmp_path, *GROWING, "callbacks=neuron_clusters", options, model="transformer"
    )
    assert run.status == 0
    found = json.loads((run.folder / "clusters.json").read_text())
    (site,) = found
    assert list(found[site]) == ["founders", "1e-06"]
    kept = {name: value for name, value in run.summary.items() if name.startswith("clusters/")}
    assert kept == {f"clusters/{site}/{n}": v for n, v in found[site]["founders"].items()}
    assert kept[f"clusters/{site}/clusters"] == kept[f"clusters/{site}/families"] == 4
    assert kept[f"clusters/{site}/rand_index"] == 1  # four rounds move nobody far
    assert found[site]["1e-06"]["clusters"] == found[site]["1e-06"]["neurons"] > 4


def test_models_that_do_not_grow_have_none():
    callback = NeuronClusters(**NUMBERS)
    module = MagicMock(model=Plain())
    callback.on_test_end(MagicMock(spec=Trainer, is_global_zero=True), module)
    assert callback.figures == {}


@pytest.mark.parametrize(
    ("name", "value", "wish"),
    [
        ("positions", 0, "1 or more"),
        ("permutations", 0, "1 or more"),
        ("distances", [1, 0], "above"),
    ],
)
def test_a_number_out_of_range_is_named(name, value, wish):
    NeuronClusters(**NUMBERS)
    with pytest.raises(UserError, match=rf"callbacks\.neuron_clusters\.{name}.*{wish}"):
        NeuronClusters(**{**NUMBERS, name: value})
