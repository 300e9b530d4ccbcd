import math

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from crystalline.errors import UserError
from crystalline.interpret.reading import read
from crystalline.interpret.sites import Code
from crystalline.interpret.topic_steering import (
    Judge,
    Topic,
    choose_by_effect,
    choose_by_firing,
    code_counts,
    steer_topics,
    steering_figures,
)
from crystalline.tokenizer import ByteTokenizer
from tests.composing import composed
from tests.tiny_models import RunningMean

TOKENIZER = ByteTokenizer()
SITE = "layers.0.mlp.group.0"


def small_model(*more):
    torch.manual_seed(0)
    small = ("d_model=16", "num_layers=1", "num_heads=2", "codebook_size=12", "num_codes_k=2")
    config = composed("model=crystalline", *(f"model.{each}" for each in (*small, *more))).model
    return instantiate(config, vocab_size=TOKENIZER.vocab_size, _convert_="all")


def row(topic, arm, frequency, price=1.0, distinct_2=0.5):
    return {"topic": topic, "codes": arm, "frequency": frequency, "price": price,
            "distinct_2": distinct_2}  # fmt: skip


def test_figures_are_medians_and_worst_cases_over_topics():
    rows = [
        row("a", "base", 0.1), row("a", "steered", 0.9, 1.2, 0.4), row("a", "control", 0.3),
        row("b", "base", 0.4), row("b", "steered", 0.7, 1.4, 0.3), row("b", "control", 0.3),
    ]  # fmt: skip
    found = steering_figures(rows)
    assert found["a steered"] == 0.9
    assert found["topics"] == 2
    assert found["median_steered"] == pytest.approx(0.8)
    assert found["highest_base"] == 0.4
    assert found["control_gap"] == pytest.approx(0.2)
    assert found["price"] == pytest.approx(1.3)
    assert found["distinct_2"] == pytest.approx(0.7)
    assert steering_figures([]) == {"topics": 0}


def test_counts_are_of_different_codes_a_position():
    reading = read(RunningMean(), [torch.randint(0, 250, (3, 16))])
    counts = code_counts(reading)
    assert counts["choice"].shape == (2, 6)
    assert counts["choice"].sum() == 2 * 48
    assert counts["top"].shape == (1, 6)
    assert counts["top"].sum() == 3 * 48
    expected = np.bincount(reading.sites["choice"].indices[:, 1], minlength=6)
    assert counts["choice"][1].tolist() == expected.tolist()


def test_codes_are_the_best_of_each_book_and_no_more_than_asked_for():
    texts = [b"a king here now.", b"no such thing ok"] * 10
    windows = torch.tensor([TOKENIZER.encode(text.decode()) for text in texts])
    reading = read(RunningMean(), [windows])
    king = {"king": ["king"]}
    options = {"codes_per_book": 1, "min_share": 0.05}
    [topic], failed = choose_by_firing(reading, TOKENIZER, king, num_codes=3, **options)
    found = topic.codes
    assert (topic.name, topic.words, failed) == ("king", ["king"], {})
    assert 1 <= len(found) <= 3
    assert len({(code.site, code.level) for code in found}) == len(found)
    [one], _ = choose_by_firing(reading, TOKENIZER, king, num_codes=1, **options)
    assert one.codes == found[:1]
    options["min_share"] = 0.999
    topics, failed = choose_by_firing(
        reading, TOKENIZER, {**king, "sea": ["sea"]}, num_codes=3, **options
    )
    assert topics == []
    assert "no code fires" in str(failed["king"])
    assert "0 of 10 sequences of a half hold a keyword" in str(failed["sea"])


def test_the_text_without_codes_is_written_once_and_judged_by_the_judge():
    model = small_model()
    counts = {SITE: torch.ones(1, 12, dtype=torch.int64)}
    topics = [Topic(name, ["w"], [Code(SITE, 0, code)]) for name, code in (("a", 1), ("b", 2))]
    start, judge = TOKENIZER.eot_id, Judge(model, TOKENIZER)
    found = steer_topics(
        model, TOKENIZER, topics, [[start], [start, 4]], counts,
        judge=judge, seed=1, num_samples=4, stop_id=start, max_new_tokens=6,
    )  # fmt: skip
    base = [row for row in found.rows if row["codes"] == "base"]
    assert {**base[0], "topic": ""} == {**base[1], "topic": ""}
    assert base[0]["price"] == 1
    assert all(row["texts"] == 8 and math.isfinite(row["price"]) for row in found.rows)
    assert set(found.control) == {"a", "b"}
    assert Code(SITE, 0, 1) not in found.control["a"]


def test_codes_may_be_held_at_the_first_tokens_alone():
    model = small_model()
    seen = []
    forward = model.forward

    def watched(tokens, **options):
        output = forward(tokens, **{**options, "codes": True})
        if len(tokens) == 3:  # base, steered, control
            seen.append(output.codes[SITE].indices[1])
        return output

    model.forward = watched
    start, counts = TOKENIZER.eot_id, {SITE: torch.ones(1, 12, dtype=torch.int64)}

    def steer(**options):
        seen.clear()
        steer_topics(
            model, TOKENIZER, [Topic("a", ["w"], [Code(SITE, 0, 7)])], [[start, 4]], counts,
            judge=None, seed=1, num_samples=1, stop_id=start, **options,
        )  # fmt: skip
        return [7 in chosen for chosen in torch.cat(seen).tolist()]

    held = steer(max_new_tokens=9, held_tokens=4)
    assert len(held) >= 8
    assert held[:4] == [True] * 4
    assert not all(held[4:])
    assert all(steer(max_new_tokens=9))
    with pytest.raises(UserError, match="held_tokens=0: give 1 or more"):
        steer(max_new_tokens=9, held_tokens=0)
    with pytest.raises(UserError, match="outgrow the context of"):
        steer(max_new_tokens=model.context_length, held_tokens=4)


def test_codes_by_effect_are_of_topics_with_a_token_of_their_own():
    model = small_model("context_length=16")
    texts = ["a king here now.", "no such thing ok"] * 10
    reading = read(model, [torch.tensor([TOKENIZER.encode(text) for text in texts])])
    options = {"windows": 4, "candidates": 3, "num_codes": 5, "codes_per_book": 2}
    topics = {"king": ["king"], "such": ["such"], "sea": ["sea"]}
    chosen, failed = choose_by_effect(
        model, reading, TOKENIZER, topics, max_cost=100.0, **options
    )  # fmt: skip
    assert [topic.name for topic in chosen] == ["such"]  # k ends "ok" as often as it begins "king"
    assert 1 <= len(chosen[0].codes) <= 5
    assert "no token stands for it" in str(failed["king"])
    assert "no token stands for it" in str(failed["sea"])
    chosen, failed = choose_by_effect(
        model, reading, TOKENIZER, {"such": ["such"]}, max_cost=0.0, **options
    )
    assert chosen == []
    assert "no code makes the model expect it" in str(failed["such"])
