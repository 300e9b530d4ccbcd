"""Data sets on the Hugging Face hub, read through the `datasets` library."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from datamodules.corpora.corpus import no_copy

TIMEOUT_S = 8.0
"""How long the hub may take to answer at all."""

_logger = logging.getLogger(__name__)

Rows = Mapping[str, Any]
"""Rows, each a mapping from column to value, by split."""


def fetch_folder(
    corpus: str,
    downloads: Path,
    repository: str,
    configuration: str | None,
    files_of: Callable[[Rows], dict[str, str]],
) -> Path:
    """The folder `downloads/<corpus>`, made from a data set on the hub where it is not there.

    Any number of processes may ask at once; the folder is whole or not there.

    Args:
        corpus: Name of the folder.
        downloads: Where it lies.
        repository: Data set on the hub.
        configuration: Its configuration; None for the default one.
        files_of: Text by file name, from the rows.

    Raises:
        UserError: If the hub cannot be reached or does not give the data set.
    """
    folder = downloads / corpus
    downloads.mkdir(parents=True, exist_ok=True)
    with FileLock(downloads / f"{corpus}.lock"):
        if folder.is_dir():
            return folder
        files = files_of(_load(corpus, repository, configuration, downloads / "huggingface"))
        temporary = Path(tempfile.mkdtemp(dir=downloads, prefix=f".{corpus}."))
        try:
            for name, text in files.items():
                (temporary / name).write_bytes(text.encode())
            temporary.chmod(0o755)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary)
            raise
    return folder


def _load(corpus: str, repository: str, configuration: str | None, cache: Path) -> Rows:
    _require_hub(corpus)
    _logger.info("Loading %s from the hub", repository)
    try:
        import datasets

        loaded = datasets.load_dataset(repository, configuration, cache_dir=str(cache))
        return {str(split): rows for split, rows in loaded.items()}
    except Exception as error:  # network, offline mode, missing files: many types, one mend
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise no_copy(corpus, f"the hub did not give {repository}: {reason}") from error


def _require_hub(corpus: str) -> None:
    """Fail within seconds where there is no network; the library would retry for minutes."""
    if os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_DATASETS_OFFLINE"):
        return  # the library then reads its own cache
    home = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    request = urllib.request.Request(home, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:  # it answers: the library will say what is wrong
        error.close()
    except (OSError, ValueError) as error:
        raise no_copy(corpus, f"{home} cannot be reached") from error
