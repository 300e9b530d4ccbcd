"""Speed and memory of our fast paths beside peers, or what models learn on the same data.

python -m crystalline.benchmark suite=quantizers
python -m crystalline.benchmark suite=quantizers cases=[residual_small] device=cpu repeats=100
python -m crystalline.benchmark suite=quantizers +suite.residual_large.compiled=true
python -m crystalline.benchmark suite=vocab models=[v8_graph,v9_meta] minutes=0.5
python -m crystalline.benchmark suite=vocab tokens=1e6 data=lovecraft optimizer=muon
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def benchmark(config: DictConfig) -> None:
    """Run the suite; a table goes to standard output, JSON and a picture to `output`.

    Raises:
        UserError: For a key that the suite cannot use.
    """
    from hydra.utils import get_method

    get_method(config.runner)(config)


def main() -> None:
    from crystalline.command import run

    # Counting a CPU's allocations starts Kineto, which would note on the terminal that it does.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    run(benchmark, command="benchmark", config_name="benchmark")


if __name__ == "__main__":
    main()
