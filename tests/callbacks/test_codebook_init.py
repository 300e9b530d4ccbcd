"""Codes start, and stay for a while, where the inputs are."""

import pytest
import torch

from callbacks.code_changes import forget_momentum
from tests.running import train


def test_codes_start_where_the_inputs_are(corpus, tmp_path):
    with_init = train(corpus, tmp_path / "with")
    without = train(corpus, tmp_path / "without", "~callbacks.codebook_init")
    first = [float(run.column("loss/codebook")[0]) for run in (with_init, without)]
    assert first[0] < 0.3 * first[1]


def test_codes_are_fitted_anew_at_intervals_until_a_share_of_training(
    corpus, tmp_path, monkeypatch
):
    import callbacks.codebook_init as module

    seeds, fit = [], module.init_codebooks
    monkeypatch.setattr(
        module, "init_codebooks", lambda model, x, seed: (seeds.append(seed), fit(model, x, seed))
    )
    options = ("trainer.max_steps=8", "seed=0")
    train(corpus, tmp_path / "a", *options, "callbacks.codebook_init={every_n_steps: 2, until: .5}")
    assert len(seeds) == len(set(seeds)) == 3  # before round 0, after rounds 2 and 4
    seeds.clear()
    train(corpus, tmp_path / "b", *options, "callbacks.codebook_init.every_n_steps=null")
    assert len(seeds) == 1


def test_enough_tokens_are_read_in_whole_rounds(corpus, tmp_path, monkeypatch):
    import callbacks.codebook_init as module

    read = []
    monkeypatch.setattr(module, "init_codebooks", lambda model, x, seed: read.append(x.shape))
    train(corpus, tmp_path, "callbacks.codebook_init.positions_per_code=30")
    assert read[0] == (16, 16)  # 240 tokens for 8 codes: four rounds of 64


@pytest.mark.parametrize("fused", [True, False])
def test_momentum_is_forgotten_for_moved_codes_alone(fused):
    codes = torch.nn.Parameter(torch.randn(2, 4, 3))
    optimizer = torch.optim.AdamW([codes], fused=fused)
    codes.grad = torch.randn_like(codes)
    optimizer.step()
    before = {name: value.clone() for name, value in optimizer.state[codes].items()}
    moved = torch.zeros(2, 4, dtype=torch.bool)
    moved[1, 2] = True
    forget_momentum([optimizer], codes, moved)
    for name in ("exp_avg", "exp_avg_sq"):
        after = optimizer.state[codes][name]
        assert not after[1, 2].any()
        assert torch.equal(after[~moved], before[name][~moved])
        assert after[~moved].all()
    assert optimizer.state[codes]["step"] == before["step"]
