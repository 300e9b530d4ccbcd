"""Models in lm-evaluation-harness: its numbers are those of the model's own logits."""

import pytest
import torch

from crystalline.errors import UserError
from crystalline.sampling import sample
from crystalline.tokenizer import BPETokenizer, ByteTokenizer, DigitTokenizer
from tests import model_zoo
from tests.tiny_models import Plain

pytest.importorskip("lm_eval", reason="needs the extra harness")

from lm_eval.api.instance import Instance

from crystalline.harness.adapter import HarnessModel
from crystalline.harness.generation import Ending, Generation

PAIRS = [("The cat", " sat"), ("The cat sat on", " it"), ("", "dog"), ("x", " a longer one")]


def requests(kind, *arguments):
    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


def direct(model, before, after):
    """Log-probability of ids `after` and whether they are likeliest, from the logits alone."""
    tokens = torch.tensor([before + after])
    with torch.no_grad():
        chances = model(tokens[:, :-1]).logits[0, len(before) - 1 :].double().log_softmax(-1)
    wanted = torch.tensor(after)
    nats = float(chances.gather(-1, wanted[:, None]).sum())
    return pytest.approx(nats, rel=1e-4), bool((chances.argmax(-1) == wanted).all())


@pytest.fixture(scope="module")
def model():
    return Plain(context_length=24).eval()


@pytest.fixture(scope="module")
def bpe():
    """Pieces " ca" and "ab" are one token each."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    from crystalline.tokenizer import EOT, byte_characters

    merges = [("Ġ", "c"), ("Ġc", "a"), ("a", "b")]
    pieces = [*byte_characters(), *("".join(pair) for pair in merges)]
    fast = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(pieces)}, merges))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([EOT])
    return BPETokenizer(fast)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_log_probabilities_are_those_of_the_logits(model, batch_size):
    tokenizer = ByteTokenizer()
    adapter = HarnessModel(model, tokenizer, batch_size)
    found = adapter.loglikelihood(requests("loglikelihood", *PAIRS))
    for (context, continuation), answer in zip(PAIRS, found, strict=True):
        before = tokenizer.encode(context) or [tokenizer.eot_id]
        assert answer == direct(model, before, tokenizer.encode(continuation))


@pytest.mark.parametrize("name", model_zoo.MODELS)
def test_padding_changes_nothing_in_any_family(unchecked, name):
    model, tokenizer = model_zoo.build(name).eval(), DigitTokenizer(16)
    texts = [("31415", "926"), ("2718281828", "4590452353602874713526"), ("", "1"), ("57721", "5")]
    together = HarnessModel(model, tokenizer, 4).loglikelihood(requests("loglikelihood", *texts))
    for (context, continuation), answer in zip(texts, together, strict=True):
        before = tokenizer.encode(context) or [tokenizer.eot_id]
        assert answer == direct(model, before, tokenizer.encode(continuation))


def test_what_the_model_would_write_is_greedy_and_nothing_else(model):
    tokenizer = ByteTokenizer()
    tokens = torch.tensor([tokenizer.encode("a")])
    best = [int(t) for t in sample(model, tokens, max_new_tokens=4, temperature=0)]
    adapter = HarnessModel(model, tokenizer, 2)
    other = [*best[:-1], (best[-1] + 1) % 256]
    found = adapter._loglikelihood_tokens([(("", ""), [97], each) for each in (best, other)])
    assert [greedy for _, greedy in found] == [True, False]


def test_of_a_long_context_the_last_tokens_count(model):
    tokenizer = ByteTokenizer()
    context, continuation = "abcdefgh" * 10, "xyz"
    adapter = HarnessModel(model, tokenizer, 2)
    [found] = adapter.loglikelihood(requests("loglikelihood", (context, continuation)))
    kept = tokenizer.encode(context)[-22:]  # with two of the continuation, the window of 24
    assert found == direct(model, kept, tokenizer.encode(continuation))


def test_tokens_are_those_of_the_whole_text(bpe):
    model = Plain(bpe.vocab_size).eval()
    adapter = HarnessModel(model, bpe, 2)
    texts = [("a", " ca"), ("a ", "ca"), ("a", "b"), (" ", "ca")]
    found = adapter.loglikelihood(requests("loglikelihood", *texts))
    a, b = bpe.encode("a"), bpe.encode("b")
    assert len(bpe.encode(" ca")) == len(bpe.encode("ab")) == 1
    assert found[0] == found[1] == direct(model, a, bpe.encode(" ca"))
    assert found[2] == direct(model, a, b)  # "ab" would leave nothing of b
    assert found[3] == direct(model, [bpe.eot_id], bpe.encode(" ca"))


@pytest.mark.parametrize("name", ["transformer", "ziggurat_3", "abstractinator_2"])
def test_whole_texts_are_scored_from_their_first_token_on(unchecked, name):
    model, tokenizer = model_zoo.build(name).eval(), DigitTokenizer(10)
    short, long = "1234567", "0918273645" * 9
    adapter, read = HarnessModel(model, tokenizer, 3), []
    hook = model.register_forward_pre_hook(lambda _, given: read.extend(given[0].tolist()))
    found = adapter.loglikelihood_rolling(requests("rolling", (short,), (long,), ("",)))
    hook.remove()
    ids, eot = tokenizer.encode(long), tokenizer.eot_id
    stream = [eot, *ids]
    length = model.context_length
    parts = [direct(model, [eot], ids[:length])]
    parts.append(direct(model, stream[length : length + 1], ids[length : 2 * length]))
    start = -(-(len(ids) - length) // model.alignment) * model.alignment
    parts.append(direct(model, stream[start : 2 * length + 1], ids[2 * length :]))
    last = stream[start:-1]
    assert any(row[: len(last)] == last for row in read)
    assert found[0] == direct(model, [eot], tokenizer.encode(short))[0]
    assert found[1] == pytest.approx(sum(nats.expected for nats, _ in parts), rel=1e-4)
    assert found[2] == 0


def test_text_ends_before_the_first_string_that_ends_it(model):
    tokenizer = ByteTokenizer()
    adapter = HarnessModel(model, tokenizer, 2)
    free = adapter.generate_until(requests("generate_until", ("The", {"max_gen_toks": 30})))[0]
    written = sample(
        model, torch.tensor([tokenizer.encode("The")]), max_new_tokens=30, temperature=0,
        stop_id=tokenizer.eot_id,
    )  # fmt: skip
    assert free == tokenizer.decode([int(token) for token in written])
    assert len(free) > 3
    stop, later = free[2:4], free[-1:]
    wanted = {"until": ["not there", later, stop], "max_gen_toks": 30}
    cut = adapter.generate_until(requests("generate_until", ("The", wanted)))[0]
    assert cut == free[: min(free.find(stop), free.find(later))]


def test_answers_stand_in_the_order_of_the_questions(model):
    adapter = HarnessModel(model, ByteTokenizer(), 2)
    prompts = ["The cat", "a", "b", "", "c", "The dog"]
    asked = [(p, {"max_gen_toks": 3 + (p in "ab"), "until": []}) for p in prompts]
    together = adapter.generate_until(requests("generate_until", *asked))
    alone = [adapter.generate_until(requests("generate_until", each))[0] for each in asked]
    assert together == alone
    assert len(set(together)) > 1


def test_text_ends_where_the_document_does():
    tokenizer = DigitTokenizer(2)
    model = Plain(tokenizer.vocab_size)
    with torch.no_grad():  # 0 is followed by 1, 1 by the end of the document, that by 0
        model.embedding.weight.copy_(torch.eye(8)[:3])
    scores = torch.tensor([[0.0, 9, 0], [0, 0, 9], [9, 0, 0]])
    model.register_forward_hook(
        lambda _, args, output: type(output)(scores[args[0]], codes=output.codes)
    )
    adapter = HarnessModel(model.eval(), tokenizer, 1)
    asked = requests("generate_until", ("0", {"max_gen_toks": 10}), ("1", {"max_gen_toks": 10}))
    assert adapter.generate_until(asked) == ["1", ""]


def test_drawn_texts_differ_and_come_again(model):
    adapter = HarnessModel(model, ByteTokenizer(), 4)
    asked = [("The", {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8})] * 6
    first = adapter.generate_until(requests("generate_until", *asked))
    assert len(set(first)) == 6
    assert adapter.generate_until(requests("generate_until", *asked)) == first


@pytest.mark.parametrize(
    ("wanted", "temperature"),
    [
        ({}, 0.0),
        ({"do_sample": False, "temperature": 1}, 0.0),
        ({"temperature": 0.5}, 0.5),
        ({"do_sample": True}, 1.0),
    ],
)
def test_text_is_drawn_only_when_a_task_says_so(wanted, temperature):
    found = Generation.of({"until": "\n", **wanted})
    assert (found.temperature, found.until, found.max_new_tokens) == (temperature, (b"\n",), 256)


def test_beam_search_is_refused():
    with pytest.raises(UserError, match=r"generation_kwargs \{'num_beams': 4\}"):
        Generation.of({"num_beams": 4})


def test_a_text_that_the_tokenizer_cannot_encode_is_one_line():
    adapter = HarnessModel(Plain(11), DigitTokenizer(10), 1)
    with pytest.raises(UserError, match="tasks: a digit tokenizer of base 10 cannot encode 'T'"):
        adapter.loglikelihood(requests("loglikelihood", PAIRS[0]))


def test_of_several_strings_in_one_token_the_first_ends_the_text():
    ending = Ending((b"c", b"b"))
    for piece in (b"a", b"abc", b"a"):
        ending.push(piece)
    assert (ending.text, ending.done) == ("aa", True)
