import logging

import pytest
from omegaconf import OmegaConf

from crystalline.prepare import prepare


def test_prepare_logs_the_splits_and_fills_the_cache(tmp_path, caplog):
    (tmp_path / "story.txt").write_text("The cat sat on the mat. " * 200)
    data = {
        "_target_": "datamodules.text.TextDataModule",
        "corpus": {"_target_": "datamodules.corpora.files.TextFiles", "data_dir": "none"},
        "tokenizer": {"_target_": "datamodules.tokenizer_builders.Bytes"},
        "path": str(tmp_path / "story.txt"),
        "cache_dir": str(tmp_path / "cache"),
        "seq_len": 16,
        "batch_size": 4,
        "eval_batch_size": 4,
        "windows": "shuffle",
        "stride": 1,
        "seed": 0,
    }
    with caplog.at_level(logging.INFO, "crystalline.prepare"):
        prepare(OmegaConf.create({"data": data}))
    [table] = [r.message for r in caplog.records if r.name == "crystalline.prepare"]
    assert "fingerprint" in table
    assert [line.split()[0] for line in table.splitlines()[1:]] == ["split", "train", "val", "test"]
    assert table.splitlines()[2].split() == ["train", "1", "4,320", "4,321", "1.000"]
    assert len(list((tmp_path / "cache" / "tokens").glob("*.npy"))) == 3


def test_prepare_names_the_best_loss_of_a_machine(caplog):
    data = {
        "_target_": "datamodules.fsm.FSMDataModule",
        "variant": "paper",
        "batch_size": 4,
        "eval_batch_size": 4,
        "seed": 0,
    }
    with caplog.at_level(logging.INFO, "crystalline.prepare"):
        prepare(OmegaConf.create({"data": data}))
    assert "1.1748 nats" in caplog.text


@pytest.mark.parametrize("module", ["crystalline.prepare", "datamodules.machine"])
def test_quick_modules_do_not_import_torch(module):
    import subprocess
    import sys
    from pathlib import Path

    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
