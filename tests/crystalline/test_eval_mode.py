from __future__ import annotations

import torch
from torch import nn

from crystalline.eval_mode import evaluating


def test_a_compiled_model_runs_as_written_inside_and_keeps_its_modes():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    model.compile(backend=backend)
    with evaluating(model):
        first, second = (model(torch.ones(1, 2)) for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert compiled == []
    assert model.training
    assert model[1].training
