"""Bring back a file that `crystalline.compress` made smaller, to the last byte."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from crystalline.compress import output_of, read_input
from crystalline.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def decompress(config: DictConfig) -> None:
    """Write `output`, or nothing if it is not what was compressed.

    Raises:
        UserError: For a bad key, a damaged file, another checkpoint than that of the file, or, but
            for `force`, another machine or other versions; and if the text does not come back.
    """
    content, target = read_input(config), output_of(config)
    if not isinstance(config.force, bool):
        raise UserError(f"force={config.force}: give true or false")
    import zlib

    from crystalline.checkpoint import sha256
    from crystalline.compression.coder import OTHERWISE, decode
    from crystalline.compression.container import unpack
    from crystalline.compression.setting import Setting, threads
    from crystalline.files import checkpoint_in, write_atomically
    from crystalline.generate import open_checkpoint

    header, payload = unpack(content, f"input={config.input}")
    loaded = open_checkpoint(config)
    digest = sha256(checkpoint_in(str(config.checkpoint)))
    if digest != header.checkpoint:
        raise UserError(
            f"checkpoint={config.checkpoint}: input={config.input} was compressed with another "
            f"one (SHA-256 {header.checkpoint[:12]}..., this one has {digest[:12]}...)"
        )
    with threads(header.setting.threads):
        differences = header.setting.differences(Setting.here())
        if differences and not config.force:
            raise UserError(
                f"input={config.input} was compressed with {', '.join(differences)}; decompress it "
                "there, or try with force=true"
            )
        tokenizer = loaded.tokenizer
        tokens = decode(loaded.model.cpu(), payload, header.num_tokens, tokenizer.eot_id)
    original = b"".join(tokenizer.token_bytes(token) for token in tokens)
    if len(original) != header.num_bytes or zlib.crc32(original) != header.crc32:
        raise UserError(f"input={config.input}: {OTHERWISE}")
    write_atomically(target, original)
    log.info("%d bytes written to %s", len(original), target)


def main() -> None:
    from crystalline.command import run

    run(decompress, command="decompress", config_name="decompress")


if __name__ == "__main__":
    main()
