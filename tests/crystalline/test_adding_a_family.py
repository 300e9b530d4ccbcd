"""docs/adding_a_family.md is true: its three files make a model that trains and is tested."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import crystalline
import crystalline.models
from tests.running import ROOT, Finished, command

_BLOCK = re.compile(r"^`([\w/.]+)`\n\n```\w+\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory):
    """A folder with the page's files, in which `crystalline.models` finds the new one."""
    folder = tmp_path_factory.mktemp("family")
    for name, content in _BLOCK.findall((ROOT / "docs/adding_a_family.md").read_text("utf-8")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        found = [*crystalline.models.__path__, str(folder / "crystalline/models")]
        patch.setattr(crystalline.models, "__path__", found)
        yield folder


@pytest.fixture(scope="module")
def finished(family: Path, corpus: Path) -> Finished:
    """Four rounds of `model=fading_bag`, found through `--config-dir`."""
    folder = family / "run"
    sizes = ("model.d_model=16", "model.context_length=16", "model.quantizer.codebook_size=8")
    data = ("data=text", f"data.path={corpus}", "tokenizer@data.tokenizer=bytes")
    dumps = ("callbacks.bucket_dump.positions=500", "callbacks.bucket_dump.baselines=false")
    return command(
        "run",
        folder,
        *("--config-dir", str(family / "conf"), "model=fading_bag", *sizes, *data, *dumps),
        *("model.quantizer.codebook_dim=4", "data.batch_size=4", "data.eval_batch_size=64"),
        *("callbacks.text_samples.max_new_tokens=5", "trainer=cpu", "trainer.max_steps=4"),
        *("trainer.log_every_n_steps=1", "logger=csv", f"hydra.run.dir={folder}"),
    )


def test_the_page_holds_a_model_its_config_and_its_test(family):
    files = {str(path.relative_to(family)) for path in family.rglob("*.*") if path.is_file()}
    assert files >= {
        "crystalline/models/fading_bag.py",
        "conf/model/fading_bag.yaml",
        "tests/crystalline/models/test_fading_bag.py",
    }


def test_the_model_trains_and_is_watched_without_another_line(finished):
    assert finished.status == 0
    assert finished.summary["steps"] == 4
    assert 0 < finished.summary["test/bpb"] < 9
    assert finished.column("loss/codebook")
    assert (finished.folder / "buckets/early_late.txt").is_file()
    assert (finished.folder / "samples/step_0000004.txt").is_file()


def test_its_checkpoint_is_loaded_like_any_other(finished):
    loaded = crystalline.load(finished.last)
    assert type(loaded.model).__name__ == "FadingBag"
    assert loaded.model.codebooks()["quantizer"].codebook_size == 8


def test_the_pages_own_tests_pass(family):
    path = family / "tests/crystalline/models/test_fading_bag.py"
    spec = importlib.util.spec_from_file_location("test_fading_bag", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()
