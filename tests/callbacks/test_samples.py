from __future__ import annotations

import logging

import pytest
from omegaconf import OmegaConf

from callbacks.samples import TextSamples
from crystalline.command import CONF_DIR
from crystalline.errors import UserError
from crystalline.tokenizer import DigitTokenizer
from tests.callbacks.reading_run import TEXT, Bytes, fit
from tests.tiny_models import Plain, RunningMean


def text_samples(**changes) -> TextSamples:
    arguments = {
        "every_n_steps": 2,
        "prompts": ["In the", ""],
        "max_new_tokens": 20,
        "temperature": 0.8,
        "top_k": 50,
        "seed": 0,
    }
    return TextSamples(**{**arguments, **changes})


class Reciter(Plain):
    """Continues a byte with the one that follows its first occurrence in the training text."""

    def forward(self, tokens, *, codes=False, edits=None, cache=None):
        output = super().forward(tokens, cache=cache)
        for place, token in enumerate(tokens[0].tolist()):
            found = TEXT.find(bytes([token])) if token < 256 else 0
            output.logits[:, place, TEXT[found + 1]] = 1e9
        return output


def test_samples_stand_at_intervals_and_at_the_end_with_their_prompts(tmp_path):
    fit(tmp_path, RunningMean(), text_samples())
    names = [f"step_000000{n}.txt" for n in (2, 4, 5)]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == names
    text = (tmp_path / "samples" / names[0]).read_text()
    assert text.startswith("step 2, temperature 0.8, top_k 50\n")
    assert '[prompt "In the", seed 0]\nIn the' in text
    assert '[prompt "", seed 1]\n' in text
    assert text.count("longest overlap with the training text: ") == 2


def test_the_same_step_gives_the_same_samples(tmp_path):
    for name in "ab":
        fit(tmp_path / name, RunningMean(), text_samples(every_n_steps=0), max_steps=2)
    first, second = ((tmp_path / n / "samples" / "step_0000002.txt").read_text() for n in "ab")
    assert first == second


def test_training_is_the_same_with_and_without_samples(tmp_path):
    alone = fit(tmp_path, RunningMean()).losses
    assert fit(tmp_path, RunningMean(), text_samples()).losses == alone


def test_recited_text_is_reported_in_tokens_and_characters_without_the_prompt(tmp_path):
    fit(tmp_path, Reciter(), text_samples(prompts=["In the low h"], max_new_tokens=2), max_steps=1)
    text = (tmp_path / "samples" / "step_0000001.txt").read_text()
    assert "\nIn the low he \n" in text  # "he " is in the training text, but "h" was given
    assert '2 of 2 tokens, 2 characters: "e "' in text


def test_one_line_of_the_first_sample_is_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="callbacks.samples"):
        fit(tmp_path, RunningMean(), text_samples(), max_steps=1)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "callbacks.samples"]
    assert line.startswith('sample at step 1: [prompt "In the", seed 0] In the')
    assert "\n" not in line


def test_generated_digits_need_neither_words_nor_a_training_text(tmp_path):
    data = Bytes(tokenizer=DigitTokenizer(), generated=True)
    fit(tmp_path, RunningMean(vocab_size=11), text_samples(), data=data, max_steps=1)
    text = (tmp_path / "samples" / "step_0000001.txt").read_text()
    assert text.count("[no training text to compare with]") == 2
    assert set(text.splitlines()[3]) <= set("0123456789")


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("every_n_steps", -1, r"callbacks\.text_samples\.every_n_steps=-1"),
        ("prompts", "Once", r"callbacks\.text_samples\.prompts: give a list"),
        ("temperature", -1.0, "temperature=-1.0"),
        ("top_k", 0, "top_k=0"),
    ],
)
def test_wrong_arguments_are_one_line_that_names_the_key(name, value, line):
    with pytest.raises(UserError, match=line):
        text_samples(**{name: value})


def test_the_configuration_states_every_argument():
    block = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "callbacks" / "_samples.yaml"))
    arguments = block["text_samples"]
    assert arguments.pop("_target_") == "callbacks.samples.TextSamples"
    assert TextSamples(**arguments).prompts == ["The meaning of life is", ""]
