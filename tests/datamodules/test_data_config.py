from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.utils import instantiate
from omegaconf import OmegaConf

from datamodules.rounds import RoundDataModule

CONF = Path(__file__).resolve().parents[2] / "conf"
NAMES = sorted(f.stem for f in (CONF / "data").glob("[!_]*.yaml"))
TOKENIZERS = sorted(f.stem for f in (CONF / "tokenizer").glob("*.yaml"))


@pytest.fixture
def composed(tmp_path):
    root = {
        "defaults": ["_self_", {"data": "shakespeare"}],
        "seed": 3,
        "model": {"context_length": 64},
        "paths": {"data_dir": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache")},
    }
    ConfigStore.instance().store("data_test_root", root)

    def make(*overrides):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("data_test_root", overrides=list(overrides)).data

    return make


@pytest.mark.parametrize("name", NAMES)
def test_every_corpus_composes_and_builds(composed, name):
    config = composed(f"data={name}")
    data = instantiate(config, _convert_="all")
    assert isinstance(data, RoundDataModule)
    assert config.seed == 3
    assert getattr(data, "seq_len", None) == (127 if name == "fsm" else 64)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_tokenizer_can_be_chosen_for_a_corpus(composed, name):
    config = composed(
        "data=lovecraft",
        f"tokenizer@data.tokenizer={name}",
        *(["data.tokenizer.name=x"] if name == "pretrained" else []),
    )
    assert instantiate(config, _convert_="all").corpus.name == "lovecraft"


def test_keys_that_users_type_are_there(composed, tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 100)
    config = composed(
        "data=lovecraft",
        f"data.path={path}",
        "data.batch_size=4",
        "data.seq_len=8",
        "data.tokenizer.vocab_size=260",
        "data.windows=random",
    )
    data = instantiate(config, _convert_="all")
    data.setup("fit")
    assert data.train_batch(0).tokens.shape == (4, 8)
    assert data.vocab_size == 260
    assert OmegaConf.is_config(config.corpus)
