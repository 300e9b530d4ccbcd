"""Our quantizers beside their definition and beside vector-quantize-pytorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.benchmark.case import Case
from crystalline.benchmark.timing import Contestant, Recorded, UnavailableError
from crystalline.quantizers.coding import code_plainly
from crystalline.quantizers.estimators import straight_through
from crystalline.quantizers.residual import ResidualQuantizer

PEER = "vector-quantize-pytorch"


@dataclass(frozen=True)
class ResidualCase(Case):
    """All that a training step asks of a residual quantizer: losses, statistics and gradients.

    Everyone starts with the same codes and gets the same points and the same gradient from above.
    What moves the codes without an optimizer (running means, with us in `end_round`) is part of the
    call. The peer's rows are straight-through as ours are, so that the work is the same; those
    named "rotation" are the peer as it comes, with the rotation trick at every level.

    Args:
        points: n, vectors to code.
        d_model: Their width.
        num_codebooks: L, levels; 1 is a plain vector quantizer.
        codebook_size: K, codes per level.
        devices: Kinds of device it runs on when it is not named.
        compiled: Whether the definition through torch.compile takes part: slow to start.

    Raises:
        ValueError: If a size is below 1.
    """

    points: int
    d_model: int
    num_codebooks: int
    codebook_size: int
    devices: Sequence[str]
    compiled: bool = False

    baseline: ClassVar[str] = f"{PEER}, learnable"
    packages: ClassVar[tuple[str, ...]] = (PEER, "triton")

    def __post_init__(self) -> None:
        if min(self.points, self.d_model, self.num_codebooks, self.codebook_size) < 1:
            raise ValueError("points, d_model, num_codebooks and codebook_size must be at least 1")

    @property
    def title(self) -> str:
        books = f"{self.num_codebooks} x {self.codebook_size:,} codes"
        return f"{self.points:,} points of width {self.d_model}, {books}, fp32"

    def contestants(self, device: torch.device) -> dict[str, Contestant]:
        data = self._data(device)
        learnable = {"learnable_codebook": True, "ema_update": False}
        found = {
            "crystalline, gradient": _ours(data, "gradient"),
            "crystalline, ema": _ours(data, "ema"),
            **_recorded(data),
            "definition, gradient": _plain(data, code_plainly),
        }
        if self.compiled:
            found["definition, compiled"] = _plain(data, torch.compile(code_plainly))
        return found | {
            self.baseline: _peer(data, **learnable, rotation_trick=False),
            f"{PEER}, ema": _peer(data, rotation_trick=False),
            f"{PEER}, learnable, rotation": _peer(data, **learnable),
            f"{PEER}, ema, rotation": _peer(data),
        }

    def reference(self, device: torch.device) -> Int[Tensor, "n levels"]:
        """Indices of a search in fp32."""
        data = self._data(device)
        with torch.no_grad():
            return code_plainly(data.points[0], data.codes).indices

    def _data(self, device: torch.device) -> _Data:
        """The same numbers each time; codes as long as a random code of their rate should be."""
        generator = torch.Generator().manual_seed(0)
        shape = (1, self.points, self.d_model)
        points = torch.randn(shape, generator=generator)
        upstream = torch.randn(shape, generator=generator) / points.numel()
        books = (self.num_codebooks, self.codebook_size, self.d_model)
        # Of K random directions the best comes this close; longer codes would enlarge residuals.
        scale = (2 * torch.tensor(float(self.codebook_size)).log() / self.d_model).sqrt()
        codes = torch.randn(books, generator=generator) * scale
        return _Data(points.to(device).requires_grad_(), codes.to(device), upstream.to(device))


class _Data(NamedTuple):
    points: Float[Tensor, "1 n d"]
    codes: Float[Tensor, "levels codebook_size d"]
    upstream: Float[Tensor, "1 n d"]
    """Gradient of the loss in what leaves the quantizer."""

    def pull_back(self, quantized: Tensor, loss: Tensor, trained: Sequence[Tensor]) -> None:
        """The backward pass; gradients are dropped, so that they count as memory of the call."""
        inputs = (self.points, *trained)
        torch.autograd.grad((quantized, loss), inputs, (self.upstream, None))  # type: ignore[arg-type]


def _ours(data: _Data, update: Literal["gradient", "ema"]) -> Contestant:
    levels, size, width = data.codes.shape
    quantizer = ResidualQuantizer(width, size, levels, update=update).to(data.codes.device)
    quantizer.codes.data.copy_(data.codes)
    trained = _trained(quantizer)
    skip = torch.zeros((), dtype=torch.bool, device=data.codes.device)

    def call() -> Tensor:
        output = quantizer(data.points)
        loss = output.losses["codebook"] + output.losses["commitment"]
        data.pull_back(output.quantized, loss, trained)
        quantizer.end_round(skip)
        return output.indices[0]

    return call


def _recorded(data: _Data) -> dict[str, Contestant]:
    """Ours as training replays it with `cuda_graph=true`: launched as a whole."""
    if data.codes.device.type != "cuda":
        return {}
    return {"crystalline, gradient, recorded": Recorded(_ours(data, "gradient"))}


def _plain(data: _Data, coding_of: Callable[..., Any]) -> Contestant:
    codes = data.codes.clone().requires_grad_()
    usage = torch.zeros(codes.shape[:2], dtype=torch.int64, device=codes.device)

    def call() -> Tensor:
        coding = coding_of(data.points[0], codes)
        quantized = straight_through(data.points, coding.quantized[None])
        data.pull_back(quantized, coding.codebook + coding.commitment, [codes])
        usage.add_(coding.counts)
        return coding.indices

    return call


def _peer(data: _Data, **options: Any) -> Contestant:
    try:
        from vector_quantize_pytorch import ResidualVQ
    except ModuleNotFoundError:
        return _not_installed
    levels, size, width = data.codes.shape
    quantizer = ResidualVQ(dim=width, num_quantizers=levels, codebook_size=size, **options)
    quantizer = quantizer.to(data.codes.device)
    layers: Any = quantizer.layers
    for layer, codes in zip(layers, data.codes, strict=True):
        layer._codebook.embed.data.copy_(codes[None])
        layer._codebook.embed_avg.copy_(codes[None])
    trained = _trained(quantizer)

    def call() -> Tensor:
        quantized, indices, losses = quantizer(data.points)
        data.pull_back(quantized, losses.sum(), trained)
        return indices[0]

    return call


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _not_installed() -> Tensor:
    raise UnavailableError("not installed: pip install 'crystalline-lm[bench]'")
