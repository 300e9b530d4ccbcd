"""Models stay finite while they learn."""

import pytest
import torch

from tests.crystalline.models.vocab_space.test_leak import CASES
from tests.crystalline.models.vocab_space.test_variants import make
from tests.selection import often

ROUNDS = 200


@pytest.mark.parametrize("case", often(CASES))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.usefixtures("unchecked")
def test_in_200_rounds_nothing_is_lost_to_infinities(case, precision):
    variant, mode = case.split()
    model = make(variant, mode=mode).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    chain = torch.randint(32, (32, 2))  # each word is followed by one of two
    for round_ in range(ROUNDS):
        progress = round_ / ROUNDS
        model.begin_round(progress)
        tokens = torch.randint(32, (4, 1))
        for _ in range(24):
            tokens = torch.cat([tokens, chain[tokens[:, -1], torch.randint(2, (4,))][:, None]], 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = model(tokens[:, :-1])
            loss = output.cross_entropy(tokens[:, 1:]).loss
        weights = model.loss_weights(progress)
        total = loss + sum(weights[name] * value for name, value in output.losses.items())
        assert total.isfinite(), f"round {round_}"
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
