"""What every test shares: one thread, a cache folder of its own, a small corpus made here."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import config, install_import_hook

import tests.shapes

if importlib.util.find_spec("triton"):  # kernels are read as source, which a wrapper would hide
    import crystalline.layers.kernels.largest_triton
    import crystalline.layers.kernels.taps_triton
    import crystalline.quantizers.kernels.residual_triton
    import crystalline.quantizers.kernels.top_k_triton  # noqa: F401

# Before anything else of ours is imported.
install_import_hook(
    ["crystalline", "lightning_modules", "datamodules", "callbacks"],
    f"{tests.shapes.__name__}.check",
)
torch.set_num_threads(1)  # tiny models run faster so, and two test processes do not compete


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole commands come first: a long test that comes last leaves a processor idle."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Token files and tokenizers of this session, for subprocesses too; threads likewise."""
    os.environ["CRYSTALLINE_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations are not executed, which takes half the time of a tiny model: for long loops."""
    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of some 15 kB: words that follow each other by fixed chances, in 30 documents."""
    random = np.random.default_rng(0)
    letters = np.array(list("aeinorst"))
    words = ["".join(random.choice(letters, size=random.integers(2, 7))) for _ in range(60)]
    chances = random.dirichlet(np.full(len(words), 0.05), size=len(words))
    documents = []
    for _ in range(30):
        word, said = int(random.integers(len(words))), []
        for _ in range(100):
            word = int(random.choice(len(words), p=chances[word]))
            said.append(words[word])
        documents.append(" ".join(said) + ".\n")
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text("<|endoftext|>\n".join(documents), encoding="utf-8")
    return path
