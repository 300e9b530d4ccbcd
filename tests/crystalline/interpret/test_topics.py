import numpy as np
import pytest

from crystalline.errors import UserError
from crystalline.interpret.topics import TopicCode, topic_codes, topic_sequences
from crystalline.tokenizer import ByteTokenizer
from tests.crystalline.interpret.planted import reading_of, site_of

TOPIC, OTHER = "a cat sat.", "a dogs sat"


def fires(share: float, code: int = 1, rest: int = 0) -> list[int]:
    """A window of ten tokens, on the first of which a code fires."""
    number = round(10 * share)
    return [code] * number + [rest] * (10 - number)


def test_a_sequence_is_about_a_topic_if_it_holds_a_whole_keyword_in_any_case():
    windows = ["The Cat.  ", "concat it ", "a+b and so", "cats sleep"] * 2
    reading = reading_of(windows)
    assert topic_sequences(reading, ByteTokenizer(), ["cat"]).tolist() == [True, *[False] * 3] * 2
    on = topic_sequences(reading, ByteTokenizer(), ["cats", "a+b"])
    assert on.tolist() == [False, False, True, True] * 2


def test_a_topic_needs_sequences_with_and_without_it_in_both_halves():
    for windows in ([TOPIC, OTHER, OTHER, OTHER], [TOPIC, TOPIC, TOPIC, OTHER]):
        with pytest.raises(UserError, match=r"topic=\[cat\]: \d of 2 sequences of a half"):
            topic_sequences(reading_of(windows), ByteTokenizer(), ["cat"])


def test_a_topic_code_is_chosen_on_the_first_half_and_its_auc_is_of_the_second():
    windows = [TOPIC, OTHER, TOPIC, OTHER, TOPIC, OTHER, TOPIC, OTHER]
    shares = [0.9, 0.2, 0.6, 0.0, 0.8, 0.5, 0.3, 0.1]  # 0.3 itself is not above 30 %
    codes = [code for share in shares for code in fires(share)]
    reading = reading_of(windows, site=site_of(codes))
    on = topic_sequences(reading, ByteTokenizer(), ["cat"])
    [[found]] = topic_codes(reading, [on])
    assert found == TopicCode("site", 0, 1, 0.9, 1.0, 0.5, 0.5, 0.5)


def test_a_candidate_must_fire_on_a_large_share_of_one_topic_sequence():
    shares = [0.4, 0.0, 0.4, 0.0]
    codes = [code for share in shares for code in fires(share)]
    reading = reading_of([TOPIC, OTHER, TOPIC, OTHER], site=site_of(codes))
    on = np.array([True, False, True, False])
    assert [code.code for code in topic_codes(reading, [on], min_share=0.39)[0]] == [1]
    assert topic_codes(reading, [on, ~on], min_share=0.4) == [[], []]


def test_equal_codes_come_in_the_order_of_books_and_only_a_few_of_each():
    codes = [[1, 2]] * 10 + [[0, 0]] * 10 + [[1, 2]] * 10 + [[0, 0]] * 10
    reading = reading_of([TOPIC, OTHER, TOPIC, OTHER], a=site_of(codes, shared=True))
    on = np.array([True, False, True, False])
    assert [code.code for code in topic_codes(reading, [on])[0]] == [1, 2]
    assert [code.code for code in topic_codes(reading, [on], most=1)[0]] == [1]
