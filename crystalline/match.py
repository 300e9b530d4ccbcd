"""Widths at which a plain transformer costs what a model costs, to be trained beside it.

Two baselines: one with as many parameters, codebooks counted, one with as many training operations
per token. Nothing is trained.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def match(config: DictConfig) -> dict[str, Any]:
    """Log the costs and the overrides; `Cost` of the model and `Width` of each baseline.

    Raises:
        UserError: If the data cannot be read.
    """
    import torch

    from crystalline.base_model import take_bases
    from crystalline.contract import LanguageModel
    from crystalline.equal_cost import Cost, cost_of, parameters, training_flops, widened
    from crystalline.from_config import from_config

    data = from_config(config.data)
    data.prepare_data()
    data.setup("fit")
    take_bases(config.model, data.tokenizer)
    own = cost_of(from_config(config.model, vocab_size=data.vocab_size))

    def build(d_model: int, d_mlp: int) -> LanguageModel:
        widths = {"d_model": d_model, "d_mlp": d_mlp, "vocab_size": data.vocab_size}
        with torch.device("meta"):
            return from_config(config.baseline, **widths)

    multiple = 2 * config.baseline.num_heads
    found = {
        "parameters": widened(build, parameters, own.parameters, multiple),
        "training FLOPs": widened(build, training_flops, own.training_flops, multiple),
    }

    def line(name: str, cost: Cost, overrides: str) -> str:
        return f"{name:<22}{cost.parameters:>14,}{cost.training_flops:>18,.0f}  {overrides}"

    lines = [f"{'':<22}{'parameters':>14}{'FLOPs per token':>18}", line("the model", own, "")]
    for name, width in found.items():
        overrides = f"model.d_model={width.d_model} model.d_mlp={width.d_mlp}"
        lines.append(line(f"equal {name}", width.cost, overrides))
    log.info("\n".join(each.rstrip() for each in lines))
    return {"model": own, **found}


def main() -> None:
    from crystalline.command import run

    run(match, command="match", config_name="match")


if __name__ == "__main__":
    main()
