import pytest

import crystalline
from tests.running import train


def test_a_window_is_closed_when_every_site_has_enough_positions(corpus, tmp_path):
    # 64 positions a round at stage 0, 32 at stage 1: 100 of them take four rounds.
    run = train(corpus, tmp_path, "trainer.max_steps=9", "callbacks.usage.positions=100")
    rows = [row for row in run.rows if row["codebook/usage"]]
    assert [row["step"] for row in rows] == ["4", "8"]
    sites = list(crystalline.load(run.last).model.codebooks())
    assert len(sites) == 2
    for row in rows:
        for figure in ("usage", "perplexity"):
            values = [float(row[f"codebook/{figure}/{site}"]) for site in sites]
            assert float(row[f"codebook/{figure}"]) == pytest.approx(sum(values) / 2)
        assert 1 <= float(row["codebook/perplexity"]) <= 8
        dead = 1 - float(row["codebook/usage"])
        assert float(row["codebook/dead_fraction"]) == pytest.approx(dead)
    for name, value in rows[-1].items():
        if name.startswith("codebook/") and value:
            assert run.summary[name] == float(value)


def test_a_model_without_codes_has_no_figures(corpus, tmp_path):
    run = train(corpus, tmp_path, "callbacks.usage.positions=1", model="transformer")
    assert not any(name.startswith("codebook/") for name in run.rows[0])
