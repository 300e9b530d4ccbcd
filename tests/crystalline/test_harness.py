"""`evaluate harness=lm_eval`: tasks over local files, for checkpoints and Hugging Face models."""

import json
import math
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from omegaconf import open_dict

import crystalline
from crystalline import checkpoint
from crystalline.errors import UserError
from crystalline.harness.options import Options
from crystalline.models.transformer import Transformer
from crystalline.tokenizer import EOT, ByteTokenizer, Tokenizer
from datamodules.documents import Document, Split
from datamodules.tokenizer_builders import TrainedBPE
from tests.composing import composed
from tests.running import command

pytest.importorskip("lm_eval", reason="needs the extra harness")

DOCS = [
    {"q": "The cat sat on the", "c": [" mat", " dog", " fox."], "a": 0},
    {"q": "The dog saw", "c": [" a cat and the quick brown fox", " it"], "a": 1},
    {"q": "A", "c": [" fox", " mat", " fox jumps"], "a": 2},
]
CHOICE = """
task: own_choice
output_type: multiple_choice
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
doc_to_choice: "{{c}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
ROLLING = """
task: own_rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{q}}"
metric_list:
  - metric: bits_per_byte
  - metric: byte_perplexity
"""
WRITING = """
task: own_writing
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: "{{w}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 5}
metric_list:
  - metric: exact_match
"""
ELSEWHERE = """
task: elsewhere
dataset_path: nobody/nowhere
output_type: multiple_choice
test_split: test
doc_to_text: "{{q}}"
doc_to_target: "{{a}}"
doc_to_choice: "{{c}}"
"""


def write_tasks(folder: Path, written: list[str]) -> Path:
    """Task files, three of them over a file beside them, which says what should be written."""
    folder.mkdir()
    data = folder / "docs.jsonl"
    docs = [{**doc, "w": text} for doc, text in zip(DOCS, written, strict=True)]
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    source = (
        f"dataset_path: json\ntest_split: test\n"
        f"dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {folder / 'cache'}}}\n"
    )
    for text in (CHOICE, ROLLING, WRITING):
        (folder / f"{text.split()[1]}.yaml").write_text(text.lstrip() + source)
    (folder / "elsewhere.yaml").write_text(ELSEWHERE.lstrip())
    return folder


def bpe(folder: Path) -> Tokenizer:
    text = "The cat sat on the mat. The dog saw the cat, and the quick brown fox jumps.\n" * 20
    return TrainedBPE(290).build(Split([Document("a", memoryview(text.encode()))]), folder)


def saved(tokenizer: Tokenizer, folder: Path) -> Path:
    """A run folder with an untrained transformer."""
    sizes = {"context_length": 64, "d_model": 16, "num_layers": 1, "num_heads": 2}
    target = "crystalline.models.transformer.Transformer"
    torch.manual_seed(0)
    model = Transformer(tokenizer.vocab_size, **sizes)
    torch.nn.init.normal_(model.embedding.weight)  # sharp enough to tell choices apart
    state = {
        "state_dict": {f"model.{name}": value for name, value in model.state_dict().items()},
        "global_step": 7,
        "crystalline": {
            "format": checkpoint.FORMAT,
            "config": {"model": {"_target_": target, **sizes}},
            "tokenizer": tokenizer.to_json(),
            "vocab_size": tokenizer.vocab_size,
        },
    }
    (folder / "checkpoints").mkdir()
    checkpoint.write(state, folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return saved(ByteTokenizer() if request.param == "bytes" else bpe(folder), folder)


@pytest.fixture(scope="module")
def byte_run(tmp_path_factory):
    return saved(ByteTokenizer(), tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("some") / "tasks", ["", "", ""])


def evaluate(folder: Path, *more: str):
    return command("evaluate", folder, "harness=lm_eval", *more)


Logits = Callable[[list[int]], torch.Tensor]
"""Ids to the scores after each of them."""


def score(logits: Logits, before: list[int], after: list[int]) -> float:
    """Log-probability of `after`, by the definition."""
    chances = logits(before + after)[len(before) - 1 : -1].double().log_softmax(-1)
    return float(chances.gather(-1, torch.tensor(after)[:, None]).sum())


def chosen(logits: Logits, encode, length=lambda text: 1) -> float:
    """Share of documents whose answer has the best log-probability for its length."""
    right = 0
    for doc in DOCS:
        before = encode(doc["q"])
        whole = [encode(doc["q"] + choice) for choice in doc["c"]]
        found = [score(logits, before, ids[len(before) :]) for ids in whole]
        found = [nats / length(choice) for nats, choice in zip(found, doc["c"], strict=True)]
        right += max(range(len(found)), key=found.__getitem__) == doc["a"]
    return right / len(DOCS)


def continued(logits: Logits, tokenizer: Tokenizer, text: str) -> str:
    """Up to five likeliest tokens, one whole forward pass each."""
    ids = tokenizer.encode(text)
    start = len(ids)
    while len(ids) < start + 5:
        ids.append(int(logits(ids)[-1].argmax()))
        if ids[-1] == tokenizer.eot_id:
            break
    return tokenizer.decode(ids[start:]).split("\n")[0]


def test_figures_are_those_of_the_logits(run, tmp_path, capfd):
    loaded = crystalline.load(run / "checkpoints" / "last.ckpt")
    tokenizer, encode = loaded.tokenizer, loaded.tokenizer.encode

    @torch.no_grad()
    def logits(ids: list[int]) -> torch.Tensor:
        return loaded.model(torch.tensor([ids])).logits[0]

    written = [continued(logits, tokenizer, doc["q"]) for doc in DOCS]
    folder = write_tasks(tmp_path / "tasks", [*written[:2], written[2] + "?"])
    typed = (f"checkpoint={run}", f"include_path={folder}", "tasks=[own_*]", "batch_size=3")
    assert evaluate(tmp_path, *typed).status == 0

    found = json.loads((run / "harness.json").read_text())
    assert (found["checkpoint"], found["steps"]) == (str(run), 7)
    choice, rolling = found["results"]["own_choice"], found["results"]["own_rolling"]
    assert choice["acc,none"] == pytest.approx(chosen(logits, encode))
    assert choice["acc_norm,none"] == pytest.approx(chosen(logits, encode, len))
    nats = sum(score(logits, [tokenizer.eot_id], encode(doc["q"])) for doc in DOCS)
    size = sum(len(doc["q"]) for doc in DOCS)
    assert rolling["bits_per_byte,none"] == pytest.approx(-nats / size / math.log(2), rel=1e-5)
    assert found["results"]["own_writing"]["exact_match,none"] == pytest.approx(2 / 3)
    lines = [line.split()[:5] for line in capfd.readouterr().err.splitlines()]
    assert ["own_choice", "0", "3", "acc", f"{choice['acc,none']:.4f}"] in lines


def test_limit_shots_and_output_are_as_typed(byte_run, tasks, tmp_path):
    output = tmp_path / "scores.json"
    typed = (f"checkpoint={byte_run}", f"include_path={tasks}", "tasks=own_rolling")
    assert evaluate(tmp_path, *typed, "limit=2", f"output={output}").status == 0
    found = json.loads(output.read_text())
    assert found["n-samples"]["own_rolling"] == {"original": 3, "effective": 2}
    assert found["limit"] == 2
    assert list(found["results"]) == ["own_rolling"]
    assert not (byte_run / "harness.json").exists()


def test_solved_examples_stand_before_the_question(tasks):
    from crystalline.harness.tasks import load_tasks

    [task] = load_tasks(["own_choice"], tasks, num_fewshot=1)["tasks"].values()
    task.build_all_requests(limit=1)
    context = task.instances[0].args[0]
    assert context.endswith(DOCS[0]["q"])
    assert context != DOCS[0]["q"]


@pytest.fixture
def no_network(monkeypatch):
    """The hub answers at once that it cannot be reached."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """A folder with an untrained GPT-2 and a tokenizer."""
    import transformers

    folder = tmp_path_factory.mktemp("gpt2")
    fast = bpe(folder)._fast
    torch.manual_seed(0)
    sizes = {"vocab_size": 290, "n_positions": 64, "n_embd": 8, "n_layer": 1, "n_head": 2}
    sizes |= {"bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.5}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained(folder)
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=fast, eos_token=EOT)
    wrapped.save_pretrained(folder)
    return folder


def test_a_hugging_face_model_is_scored_by_its_own_logits(
    hugging_face, tasks, tmp_path, monkeypatch
):
    import transformers

    monkeypatch.chdir(tmp_path)
    typed = (f"hf_model={hugging_face}", f"include_path={tasks}", "tasks=[own_choice,own_rolling]")
    assert evaluate(tmp_path, *typed).status == 0
    [file] = tmp_path.glob("harness_*.json")
    found = json.loads(file.read_text())
    assert found["hf_model"] == str(hugging_face)
    model = transformers.AutoModelForCausalLM.from_pretrained(hugging_face)
    tokenizer = transformers.AutoTokenizer.from_pretrained(hugging_face)

    @torch.no_grad()
    def logits(ids: list[int]) -> torch.Tensor:
        return model(torch.tensor([ids])).logits[0]

    acc = found["results"]["own_choice"]["acc,none"]
    assert acc == pytest.approx(chosen(logits, tokenizer.encode))
    nats = sum(score(logits, [0], tokenizer.encode(doc["q"])) for doc in DOCS)
    size = sum(len(doc["q"]) for doc in DOCS)
    bits = found["results"]["own_rolling"]["bits_per_byte,none"]
    assert bits == pytest.approx(-nats / size / math.log(2), rel=1e-5)


@pytest.fixture(scope="module")
def config():
    return composed("checkpoint=some", "harness=lm_eval", root="evaluate")


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"harness": "other"}, "harness must be null or lm_eval, got 'other'"),
        ({"harness": None, "hf_model": "gpt2"}, "hf_model is scored on tasks: add harness=lm_eval"),
        ({"hf_model": "gpt2"}, "give checkpoint= or hf_model=, not both"),
        ({"data": {}}, "data= goes with the scores of a split"),
        ({"tasks": []}, r"tasks=\[\]: give names"),
        ({"tasks": [1]}, r"tasks=\[1\]: give names"),
        ({"include_path": "nowhere"}, "include_path=nowhere: there is no such folder"),
        ({"num_fewshot": -1}, "num_fewshot=-1: give 0 or more, or null"),
        ({"num_fewshot": "few"}, "num_fewshot=few: give a whole number"),
        ({"limit": 0}, "limit=0: give a number of documents, a share below 1, or null"),
        ({"limit": 2.5}, "limit=2.5: give a number of documents"),
        ({"batch_size": 0}, "batch_size=0: give 1 or more"),
    ],
)
def test_a_wrong_value_is_one_line(config, keys, line):
    with open_dict(wrong := deepcopy(config)):
        wrong.update(keys)
    with pytest.raises(UserError, match=line):
        Options.of(wrong)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["checkpoint={run}", "tasks=elsewhere"], "Couldn't reach 'nobody/nowhere' on the Hub"),
        (["hf_model=nobody/nowhere"], "hf_model=nobody/nowhere: We couldn't connect"),
        ([], "checkpoint: give checkpoint="),
    ],
)
def test_what_cannot_be_reached_is_one_line(
    byte_run, tasks, tmp_path, capfd, no_network, typed, line
):
    typed = [argument.format(run=byte_run) for argument in typed]
    assert evaluate(tmp_path, f"include_path={tasks}", *typed).status == 1
    said = capfd.readouterr().err
    assert [text for text in said.splitlines() if line in text] == said.splitlines()[-1:]
    assert said.splitlines()[-1].startswith("crystalline.evaluate: ")
    assert "Traceback" not in said


def test_an_unknown_task_gets_names_that_are_close(tasks):
    from lm_eval.tasks import TaskManager

    from crystalline.harness.tasks import matched

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    assert matched(manager, ["own_*"]) == ["own_choice", "own_rolling", "own_writing"]
    with pytest.raises(UserError, match=r"no task own_choise; did you mean own_choice\?"):
        matched(manager, ["own_rolling", "own_choise"])


@pytest.mark.slow
def test_tasks_of_the_harness_and_ones_own_are_found_together(tasks):
    from crystalline.harness.tasks import _manager

    _, names = _manager(["hellaswag", "own_*"], tasks)
    assert names == ["hellaswag", "own_choice", "own_rolling", "own_writing"]


@pytest.mark.parametrize("missing", ["lm_eval", "transformers"])
def test_without_the_extra_a_line_names_it(byte_run, tmp_path, capfd, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert evaluate(tmp_path, f"checkpoint={byte_run}").status == 1
    said = capfd.readouterr().err
    assert said == (
        f"crystalline.evaluate: harness=lm_eval needs {missing}: "
        "pip install 'crystalline-lm[harness]'\n"
    )
