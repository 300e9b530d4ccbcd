"""Read lines and continue each as plain text: no turn format, no memory between lines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from crystalline.generate import (
    encode_prompt,
    number,
    open_checkpoint,
    sampling_options,
    write,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)

_PROMPT = "> "


def task(config: DictConfig) -> None:
    import torch

    from crystalline.sampling import sample
    from crystalline.text_stream import stream_text

    options = sampling_options(config)
    generator = torch.Generator().manual_seed(number(config, "seed", int))
    loaded = open_checkpoint(config)
    tokenizer = loaded.tokenizer

    def reply(line: str) -> Iterator[str]:
        tokens = torch.tensor([encode_prompt(tokenizer, line)])
        stream = sample(
            loaded.model, tokens, generator=generator, stop_id=tokenizer.eot_id, **options
        )
        return stream_text((int(token) for token in stream), tokenizer)

    interactive = sys.stdin.isatty()
    if interactive:
        log.info("A line is continued as plain text. exit, quit or Ctrl-D ends; Ctrl-C cuts short.")
    converse(_typed_lines() if interactive else sys.stdin, reply)


def converse(lines: Iterable[str], reply: Callable[[str], Iterable[str]]) -> None:
    """Write the reply to each line, piece by piece, until `exit`, `quit` or the end of the lines.

    Ctrl-C while a reply is written ends that reply alone; an empty line is passed over. A line that
    cannot be encoded is said so, and the next one is read.
    """
    from crystalline.errors import UserError

    for raw in lines:
        line = raw.rstrip("\r\n")
        if line.strip() in ("exit", "quit"):
            return
        if not line.strip():
            continue
        try:
            for piece in reply(line):
                write(piece)
        except KeyboardInterrupt:
            log.info("(cut short)")
        except UserError as error:
            log.warning("%s", error)
        write("\n")


def _typed_lines() -> Iterator[str]:
    """Lines from a terminal, with editing and history where Python has readline."""
    try:
        import readline  # noqa: F401  (input() uses it once it is imported)
    except ImportError:
        log.debug("no line editing: this Python has no readline")
    while True:
        try:
            yield input(_PROMPT)
        except EOFError:
            return


def main() -> None:
    from crystalline.command import run

    run(task, command="chat", config_name="chat")


if __name__ == "__main__":
    main()
