"""Write text from a checkpoint to standard output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from crystalline.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from crystalline.checkpoint import Loaded
    from crystalline.tokenizer import Tokenizer


def task(config: DictConfig) -> None:
    import torch

    from crystalline.sampling import sample
    from crystalline.text_stream import stream_text

    options = sampling_options(config)
    num_samples = number(config, "num_samples", int)
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: give 1 or more")
    loaded = open_checkpoint(config)
    tokenizer, prompt = loaded.tokenizer, str(config.prompt or "")
    tokens = torch.tensor([encode_prompt(tokenizer, prompt)] * num_samples)
    generator = torch.Generator().manual_seed(number(config, "seed", int))
    stream = sample(loaded.model, tokens, generator=generator, stop_id=tokenizer.eot_id, **options)
    if num_samples == 1:
        write(prompt)
        for piece in stream_text((int(token) for token in stream), tokenizer):
            write(piece)
        write("\n")
        return
    columns = list(stream)
    for index in range(num_samples):
        written = [int(column[index]) for column in columns]
        write(f"=== sample {index + 1} of {num_samples} ===\n{prompt}{tokenizer.decode(written)}\n")


def open_checkpoint(config: DictConfig) -> Loaded:
    """The checkpoint that the key names, or that of a run folder; on a GPU where there is one.

    Raises:
        UserError: If the key is empty, or for what `crystalline.load` refuses.
    """
    import torch

    import crystalline
    from crystalline.files import checkpoint_in

    if not config.checkpoint:
        raise UserError("checkpoint: give checkpoint=<run>/checkpoints/last.ckpt")
    loaded = crystalline.load(checkpoint_in(str(config.checkpoint)))
    loaded.model.to("cuda" if torch.cuda.is_available() else "cpu")
    return loaded


def sampling_options(config: DictConfig) -> dict[str, Any]:
    """The keys that `sample` takes, checked before anything is loaded.

    Raises:
        UserError: If one is out of range or not a number.
    """
    from crystalline.sampling import check_options

    options: dict[str, Any] = {
        "max_new_tokens": number(config, "max_new_tokens", int),
        "temperature": number(config, "temperature", float),
        "top_k": number_or_null(config, "top_k", int),
        "top_p": number(config, "top_p", float),
    }
    check_options(**options)
    return options


def number(config: DictConfig, key: str, kind: type[int] | type[float]) -> Any:
    """The key's value as an int or a float.

    Raises:
        UserError: If it is something else.
    """
    value = config[key]
    fits = isinstance(value, (int, kind)) and not isinstance(value, bool)
    if not fits:
        name = "a whole number" if kind is int else "a number"
        raise UserError(f"{key}={value}: give {name}")
    return kind(value)


def number_or_null(config: DictConfig, key: str, kind: type[int] | type[float]) -> Any:
    """As `number`; None for null."""
    return None if config[key] is None else number(config, key, kind)


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids of the prompt; of a document's start if it has none.

    Raises:
        UserError: If the tokenizer cannot encode it.
    """
    try:
        return tokenizer.encode(prompt) or [tokenizer.eot_id]
    except ValueError as error:
        raise UserError(f"prompt: {error}; leave it empty or give what the corpus holds") from error


def open_document(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text at the start of a document, which may be empty.

    Raises:
        UserError: If the tokenizer cannot encode it.
    """
    return [tokenizer.eot_id, *(encode_prompt(tokenizer, text) if text else [])]


def write(text: str) -> None:
    """Generated text is the product: it goes to standard output at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> None:
    from crystalline.command import run

    run(task, command="generate", config_name="generate", text_keys=("prompt",))


if __name__ == "__main__":
    main()
