"""One file by HTTP: resumed where it was cut off, checked, and then moved into place."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock

from datamodules.corpora.corpus import no_copy

TIMEOUT_S = 20.0
"""Longest silence of a server."""
ATTEMPTS = 3
"""How often a transfer that breaks off is taken up again."""
PROGRESS_S = 5.0
"""Time between two progress lines in the log."""

_logger = logging.getLogger(__name__)


def download(
    url: str,
    target: Path,
    *,
    corpus: str,
    sha256: str | None = None,
    max_bytes: int | None = None,
) -> Path:
    """The file at `url`, or its first `max_bytes`, as `target`; at once where that exists.

    Any number of processes may ask at once. What has arrived before a failure stays in
    `<target>.part`, and the next call goes on from there.

    Args:
        url: http or https.
        target: Where the whole file lies afterwards.
        corpus: Name for error messages.
        sha256: Checksum of what is fetched; None to check its size alone.
        max_bytes: Fetch no more than this.

    Raises:
        UserError: If the server cannot be reached, lacks the file, breaks off, or sends another.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f"{target.name}.lock")):
        if target.is_file():
            return target
        part = target.with_name(f"{target.name}.part")
        _fetch_all(url, part, corpus, max_bytes)
        found = _digest(part)
        if sha256 is not None and found != sha256:
            part.unlink()
            raise no_copy(corpus, f"{url} has checksum {found[:12]}..., not {sha256[:12]}...")
        os.replace(part, target)
        _logger.info("Downloaded %s: %d bytes, sha256 %s", url, target.stat().st_size, found)
    return target


def _fetch_all(url: str, part: Path, corpus: str, max_bytes: int | None) -> None:
    """Bring `part` to its full size."""
    for attempt in range(ATTEMPTS):
        try:
            expected = _fetch(url, part, max_bytes)
            have = part.stat().st_size
            if expected is None or have == expected:
                return
            reason = f"{url} was cut off at {have:,} of {expected:,} bytes; run again to resume"
        except urllib.error.HTTPError as error:
            error.close()
            raise no_copy(corpus, f"{url} answered {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", None) or error
            reason = f"{url} cannot be reached: {cause}"
            if not part.exists():  # nothing has come: waiting would not help
                raise no_copy(corpus, reason) from error
        _logger.info("Attempt %d of %d: %s", attempt + 1, ATTEMPTS, reason)
    raise no_copy(corpus, reason)


def _fetch(url: str, part: Path, max_bytes: int | None) -> int | None:
    """Append to `part` what one request gives.

    Returns:
        The size that `part` should have now; None where the server does not say.
    """
    have = part.stat().st_size if part.exists() else 0
    if max_bytes is not None and have >= max_bytes:
        return max_bytes
    request = urllib.request.Request(url)
    if have or max_bytes is not None:
        request.add_header("Range", f"bytes={have}-{max_bytes - 1 if max_bytes else ''}")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        total = _total(error.headers.get("Content-Range"))
        error.close()
        if total == have:
            return have
        part.unlink()  # of another file, it seems
        return _fetch(url, part, max_bytes)
    with response:
        if response.status == http.client.PARTIAL_CONTENT:
            total = _total(response.headers.get("Content-Range"))
        else:
            have = 0  # the server sends all of it again
            length = response.headers.get("Content-Length")
            total = int(length) if length else None
        expected = min((size for size in (total, max_bytes) if size is not None), default=None)
        _append(response, part, have, expected)
    return expected


def _append(response, part: Path, have: int, expected: int | None) -> None:
    """Write the body after the first `have` bytes of `part`, up to `expected` in all."""
    said = time.monotonic()
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        while block := response.read(2**18 if expected is None else min(2**18, expected - have)):
            file.write(block)
            have += len(block)
            if time.monotonic() - said > PROGRESS_S:
                said = time.monotonic()
                share = f" of {expected / 1e6:.1f}" if expected else ""
                _logger.info("%s: %.1f%s MB", part.stem, have / 1e6, share)
        file.flush()
        os.fsync(file.fileno())


def _total(content_range: str | None) -> int | None:
    """The size of the whole file by a header such as "bytes 5-9/10"."""
    found = re.search(r"/(\d+)$", content_range or "")
    return int(found[1]) if found else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
