"""Looking at a model without changing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients inside the block; afterwards every module's own mode again.

    A compiled model runs as written: shapes and options are others here, and compiling for each of
    them would cost more than it saves. Gradients go by `no_grad`, not by `inference_mode`: a table
    that a module builds meanwhile must serve training too.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), uncompiled(model):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def uncompiled(model: nn.Module) -> AbstractContextManager[object]:
    """Inside the block, compiled parts of the model run as written and call their hooks."""
    if all(module._compiled_call_impl is None for module in model.modules()):
        return nullcontext()  # importing the compiler takes seconds
    return torch.compiler.set_stance("force_eager")
