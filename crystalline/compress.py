"""Make a file smaller by a checkpoint's own chances; `crystalline.decompress` brings it back."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalline.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from crystalline.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def compress(config: DictConfig) -> dict[str, Any]:
    """Write `output` and say what it costs, beside what others cost; the same as figures.

    Raises:
        UserError: For a bad key or checkpoint, or a file that its tokenizer does not give back.
    """
    content, target = read_input(config), output_of(config)
    from crystalline.generate import number, open_checkpoint

    count = number(config, "threads", int)
    if count < 1:
        raise UserError(f"threads={count}: give 1 or more")
    import zlib

    from crystalline.checkpoint import sha256
    from crystalline.compression.coder import encode
    from crystalline.compression.container import Header, pack
    from crystalline.compression.report import figures, table
    from crystalline.compression.setting import Setting, threads
    from crystalline.files import checkpoint_in, write_atomically

    loaded = open_checkpoint(config)
    tokens = tokens_of(loaded.tokenizer, content, str(config.input))
    with threads(count):
        started_s = time.perf_counter()
        encoded = encode(loaded.model.cpu(), tokens, loaded.tokenizer.eot_id)
        elapsed_s = time.perf_counter() - started_s
        setting = Setting.here()
    digest = sha256(checkpoint_in(str(config.checkpoint)))
    header = Header(digest, zlib.crc32(content), len(content), len(tokens), setting)
    packed = pack(header, encoded.payload)
    write_atomically(target, packed)
    found = figures(content, packed, encoded, elapsed_s)
    log.info("%s\nwritten to %s", table(found), target)
    return found


def read_input(config: DictConfig) -> bytes:
    """The content of the file that `input` names.

    Raises:
        UserError: If the key is empty or there is no such file.
    """
    if config.input is None or not Path(str(config.input)).is_file():
        said = (
            "give input=<file>" if config.input is None else f"input={config.input}: no such file"
        )
        raise UserError(said)
    return Path(str(config.input)).read_bytes()


def output_of(config: DictConfig) -> Path:
    """Where the result goes.

    Raises:
        UserError: If the key is empty, or names a folder or the input itself.
    """
    if config.output is None:
        raise UserError("give output=<file>")
    path = Path(str(config.output))
    if path.is_dir() or path.resolve() == Path(str(config.input)).resolve():
        raise UserError(f"output={path}: give another file than the input, and no folder")
    return path


def tokens_of(tokenizer: Tokenizer, content: bytes, name: str) -> list[int]:
    """The ids of a file.

    Raises:
        UserError: If it does not come back from them to the last byte.
    """
    try:
        tokens = tokenizer.encode_bytes([content])[0]
    except ValueError:  # not UTF-8, or characters that the tokenizer does not know
        tokens = []
    if b"".join(tokenizer.token_bytes(token) for token in tokens) != content:
        raise UserError(
            f"input={name}: the checkpoint's tokenizer does not give this file back unchanged; "
            "take a checkpoint that reads bytes"
        )
    return tokens


def main() -> None:
    from crystalline.command import run

    run(compress, command="compress", config_name="compress")


if __name__ == "__main__":
    main()
