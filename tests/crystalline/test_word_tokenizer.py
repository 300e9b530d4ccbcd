import pytest

from crystalline.tokenizer import tokenizer_from_json
from crystalline.word_tokenizer import WordTokenizer


def test_words_are_ids_and_the_special_id_follows():
    tokenizer = WordTokenizer(["0", "?", "(1"])
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (4, 3)
    assert tokenizer.encode(" (1 0\n? ") == [2, 0, 1]
    assert tokenizer.decode([3, 2, 0, 1]) == " (1 0 ?"
    assert tokenizer.encode(tokenizer.decode([1, 1, 2])) == [1, 1, 2]


def test_json_gives_the_same_words_again():
    tokenizer = WordTokenizer(["0", "ä"])
    copy = tokenizer_from_json(tokenizer.to_json())
    assert type(copy) is WordTokenizer
    assert copy.to_json() == tokenizer.to_json()
    assert copy.encode("ä 0") == [1, 0]


def test_unknown_words_and_lists_that_cannot_be_read_back_raise():
    with pytest.raises(ValueError, match="no word '7' among 2"):
        WordTokenizer(["0", "1"]).encode("0 7")
    for words in (["a", "a"], ["a b"], [""]):
        with pytest.raises(ValueError, match="must differ"):
            WordTokenizer(words)
