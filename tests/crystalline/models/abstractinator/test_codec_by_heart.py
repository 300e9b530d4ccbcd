"""Mode discrete, trained: texts come back from their codes, letter by letter."""

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from crystalline.models.abstractinator.codec import code_length, compress_all, expand
from crystalline.quantizers.calibration import init_codebooks
from crystalline.quantizers.vector import VectorQuantizer
from tests.crystalline.models.abstractinator import building

END, LENGTH, ROUNDS = 29, 6, 200


def strings() -> torch.Tensor:
    """64 that begin and end alike: what is between them, only codes can tell."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(1, END, (64, LENGTH), generator=generator)
    tokens[:, 0], tokens[:, -1] = 0, END
    return tokens


def codec(monkeypatch):
    """Wide enough, and with weights that tell letters apart from the first round on."""
    monkeypatch.setattr(building, "WIDTH", 32)
    book = partial(VectorQuantizer, codebook_size=256, codebook_dim=16, warmup=0.4, update="ema")
    model = building.pyramid(
        num_levels=1, mode="discrete", document_end=END, context_length=LENGTH, quantizer=book,
        segmentation={"rule": "fixed", "max_length": 2}, encoder={"segment_local": True},
        expander={"window": None}, top={"d_model": 32}, commitment_cost=0.05, lambda_content=1.0,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.endswith("codes"):
                parameter.normal_(std=0.1)
    return model


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_strings_come_back_from_their_codes_and_their_description_shrinks(monkeypatch):
    tokens, model = strings(), codec(monkeypatch)
    before = sum(part.sum() for part in code_length(model.eval(), tokens).values())
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    for number in range(2 * ROUNDS):
        progress = min(1.0, number / ROUNDS)
        model.begin_round(progress)
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1, (number + 1) / 10) * (1 - 0.9 * progress)
        if number in (ROUNDS // 4, 2 * ROUNDS // 5, 3 * ROUNDS // 5):
            init_codebooks(model, tokens, number)
        output = model(tokens)
        optimizer.zero_grad()
        loss = cross_entropy(output.logits[:, :-1].mT, tokens[:, 1:])
        output.total(loss, model.loss_weights(progress)).backward()
        optimizer.step()
        model.end_round(torch.tensor(False))
        if number >= ROUNDS and output.losses["reconstruction"] < 0.02:
            break
    model.eval()
    after = sum(part.sum() for part in code_length(model, tokens).values())
    assert after < 0.5 * before
    codes = compress_all(model, tokens)[0]
    for row, text in enumerate(tokens):
        assert torch.equal(expand(model, codes.indices[row, codes.mask[row]], text[:1]), text)
