"""What every family answers with, so that metrics, resets, dumps and search are written once.

A *site* is a place in a model where something discrete is chosen; its name is the path of the
module that chooses ("stages.0.blocks.2.quantizer") and stays the same across checkpoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crystalline.layers.cross_entropy import CrossEntropy, cross_entropy, linear_cross_entropy

if TYPE_CHECKING:
    from crystalline.compression.description import Description


@dataclass(frozen=True)
class Choice:
    """What a site has chosen and is about to look up; an edit answers with other indices."""

    indices: Int[Tensor, "batch pos k"]
    """int64."""
    positions: Int[Tensor, " pos"]
    """int64; within the site's own sequence, cached positions included."""
    without: Callable[[Bool[Tensor, "books codebook_size"]], Int[Tensor, "batch pos k"]]
    """`without(banned)`: what the site would choose if these codes were not in its books."""

    @classmethod
    def of_best(
        cls,
        scores: Float[Tensor, "batch pos codebook_size"],
        k: int,
        positions: Int[Tensor, " pos"] | None = None,
    ) -> Choice:
        """The k codes of largest score; positions count from 0 if none are given."""
        scores = scores.detach()
        if positions is None:
            positions = torch.arange(scores.shape[1], device=scores.device)

        def without(banned: Bool[Tensor, "1 codebook_size"]) -> Tensor:
            return scores.masked_fill(banned, -torch.inf).topk(k, dim=-1).indices

        return cls(scores.topk(k, dim=-1).indices, positions, without)


Edit = Callable[[Choice], Tensor]
"""`edit(choice) -> indices`, applied between selection and lookup."""

Edits = Mapping[str, Edit]
"""An `Edit` for each site that is to be overridden."""


@dataclass(frozen=True)
class Codes:
    """What one discrete site chose for a batch."""

    indices: Int[Tensor, "batch pos k"]
    """int64; the k codes of each position: levels of a residual quantizer, or the active top-k."""
    codebook_size: int
    """K; every index lies in [0, K)."""
    shared: bool = False
    """Whether the k entries come from one book (top-k) or each from a book of its own (levels)."""
    weights: Float[Tensor, "batch pos k"] | None = None
    """Where codes are mixed rather than summed; 0 in slots that are not used, which repeat a used
    one of their position."""
    mask: Bool[Tensor, "batch pos"] | None = None
    """True at real positions, where segments are padded."""
    span: int = 1
    """How many input tokens one position covers (2**stage in a pyramid)."""
    ends: Int[Tensor, "batch pos"] | None = None
    """Last input token that each position has seen, where spans vary."""
    entropy: Float[Tensor, "batch pos"] | None = None
    """Of the assignment, in nats."""
    temperature: Float[Tensor, ...] | None = None
    """Where it is learned."""

    def last_tokens(self) -> Int[Tensor, "batch pos"]:
        """Index of the last input token that each position has seen."""
        if self.ends is not None:
            return self.ends
        batch, length, _ = self.indices.shape
        ends = (torch.arange(length, device=self.indices.device) + 1) * self.span - 1
        return ends.expand(batch, length)


@dataclass(frozen=True)
class ModelOutput:
    """The answer of every model: what its head reads, and scores when they are asked for."""

    hidden: Float[Tensor, "batch pos d_model"]
    """What the linear head reads; where there is none, the scores themselves."""
    losses: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    """Auxiliary terms, unweighted: "commitment", "codebook", ..."""
    codes: dict[str, Codes] = field(default_factory=dict)
    """By site; filled only when asked for."""
    head: Float[Tensor, "vocab d_model"] | None = None
    """Weights of the linear head."""

    @cached_property
    def logits(self) -> Float[Tensor, "batch pos vocab"]:
        """Next-token scores; `logits[:, t]` is about token t + 1 and depends on 0..t alone."""
        if self.head is None:
            return self.hidden
        return F.linear(self.hidden.to(self.head.dtype), self.head)

    def cross_entropy(self, targets: Int[Tensor, "batch pos"]) -> CrossEntropy:
        """How well the scores name the targets (-100: not scored); no `logits` are kept for it."""
        if self.head is None:
            return cross_entropy(self.hidden, targets)
        return linear_cross_entropy(self.hidden, self.head, targets)

    def total(
        self, prediction: Float[Tensor, ""], weights: Mapping[str, float | Tensor]
    ) -> Float[Tensor, ""]:
        """`prediction` and the auxiliary terms by their weights; those of weight 0.0 stay out."""
        for name, value in self.losses.items():
            weight = weights[name]
            if isinstance(weight, Tensor) or weight:
                prediction = prediction + weight * value
        return prediction


@dataclass(frozen=True)
class Reconstruction:
    """A text spoken from the codes of its own positions."""

    output: ModelOutput
    """As of `forward` with codes, but what scores a token is told the code of its own position."""
    code_nats: Float[Tensor, " batch"]
    """What the codes of all sites cost, each foretold from what is above it and those before.

    In the order in which they are told, a position's code before its tokens, every term knows the
    past alone: with the tokens' cost their sum bounds -ln p(text), a two-part description.
    """


@dataclass(frozen=True)
class Renewal:
    """Rows of some parameters that are born or stilled: optimizers have to follow."""

    parameters: tuple[nn.Parameter, ...]
    """Each with the rows along its first axis."""
    born: Int[Tensor, " rows"] | None = None
    """int64; rows that were written."""
    parents: Int[Tensor, " rows"] | None = None
    """int64; the rows that they come from."""
    stilled: Int[Tensor, " rows"] | None = None
    """int64; rows that are not trained any more."""
    forget_all: bool = False
    """Whether optimizers start over, for every parameter of the model."""


class LanguageModel(nn.Module, ABC):
    """A causal language model over token ids.

    Args:
        vocab_size: Number of token ids V.
        context_length: Longest sequence T that `forward` accepts, in tokens.
    """

    alignment: int = 1
    """A sliding window may only start at a multiple of this many tokens (2**(stages - 1))."""
    epochs: int = 0
    """Equal parts of training after each of which `end_epoch` is called; 0: it never is."""

    def __init__(self, vocab_size: int, context_length: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.context_length = context_length

    @abstractmethod
    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        codes: bool = False,
        edits: Edits | None = None,
        cache: Any = None,
    ) -> ModelOutput:
        """Scores for the token after each of `tokens`.

        Args:
            tokens: int64 ids; with a cache, those that follow what the cache has seen.
            codes: Whether to fill `ModelOutput.codes`.
            edits: Overrides of chosen codes, by site.
            cache: What `init_cache` gave; it is advanced in place.
        """

    @abstractmethod
    def init_cache(self, batch_size: int) -> Any:
        """An empty generation state for `batch_size` sequences, on the model's device."""

    def step(
        self, tokens: Int[Tensor, "batch pos"], cache: Any
    ) -> Float[Tensor, "batch pos vocab"]:
        """Logits for `tokens` that follow what the cache has seen, as in one forward pass."""
        return self(tokens, cache=cache).logits

    def description(self) -> Description:
        """How it tells a text symbol by symbol, for an arithmetic coder: by default, its tokens."""
        from crystalline.compression.description import Description

        return Description(self)

    def reconstruct(self, tokens: Int[Tensor, "batch pos"]) -> Reconstruction | None:
        """What codes give back of `tokens`, and what both cost.

        None for models that speak from no code of what they are about to say: the default.
        """
        return None

    def load_base(self, name: str, base: LanguageModel) -> None:
        """Take over the weights of a trained model; every one it has must find its place.

        Args:
            name: Argument that the model was built with: one like `base`, with other weights.
            base: In which they are.
        """
        self.get_submodule(name).load_state_dict(base.state_dict())

    def begin_round(self, progress: float) -> None:
        """Called before each training round, when a share `progress` of training is done."""
        for book in self.codebooks().values():
            book.begin_round(progress)

    def after_backward(self) -> None:
        """Called when a round's gradients are complete, before they are clipped."""

    def end_round(self, skip: Bool[Tensor, ""]) -> None:
        """Called after the optimizers' steps; `skip`: they were left out, for want of numbers."""
        for book in self.codebooks().values():
            book.end_round(skip)

    def epochs_after(self, rounds: int, total: int) -> int:
        """How many of the model's epochs have ended after so many of `total` rounds."""
        return rounds * self.epochs // total

    def end_epoch(self, epoch: int, seed: int, loss: float | None) -> list[Renewal]:
        """Called after each of `epochs` equal parts of training: parts may grow and freeze.

        Args:
            epoch: Which one ends, from 1 on.
            seed: Decides whatever is drawn; the same on all ranks.
            loss: The last one in validation, in nats a token.
        """
        return []

    def population(self) -> dict[str, float]:
        """Figures of parts that grow, by metric name."""
        return {}

    def census(self) -> dict[str, dict[str, Tensor]]:
        """Each member of parts that grow, by site and then by name; copies on the CPU.

        "row" (int64, sorted), "parent" (row, or -1), "birth" (epoch), "frozen", and fp32:
        "positions" (members, d), "activity", "scale", "rate".
        """
        return {}

    def ablations(self) -> dict[str, list[nn.Parameter]]:
        """By name of a part: parameters that silence it when they are 0."""
        return {}

    def loss_weights(self, progress: float) -> dict[str, float]:
        """Weight of each entry of `ModelOutput.losses` at a share `progress` of training."""
        return {}

    def alike_parts(self) -> Sequence[nn.Module]:
        """Parts, built alike, that do the work, in their order."""
        return [self]

    def compiled_parts(self) -> Sequence[nn.Module]:
        """What is compiled, part by part: code compiled for one of those built alike serves all."""
        return self.alike_parts()

    def codebooks(self) -> dict[str, Any]:
        """Every codebook of the model by site, in the order of computation."""
        from crystalline.quantizers.codebook import Codebook

        return {name: part for name, part in self.named_modules() if isinstance(part, Codebook)}

    def codebook_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and tensors of all trainable codes: what the second optimizer owns."""
        for site, book in self.codebooks().items():
            for name, parameter in book.code_parameters():
                yield f"{site}.{name}", parameter

    def parameters_without_gradient(self) -> frozenset[str]:
        """Names of trainable parameters that no loss reaches, by design (source modes only)."""
        return frozenset()

    def temperatures(self) -> dict[str, Tensor]:
        """Learned temperature of each site that has one."""
        return {}

    def for_export(self) -> LanguageModel:
        """The model as a file should hold it: without room that is not used."""
        return self

    def export_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """The model's configuration `config`, changed so that it builds `for_export()`."""
        return config

    def runtime_metadata(self) -> dict[str, int | float | str | bool] | None:
        """What the C runtime has to know of it (docs/crystal_format.md); None: it cannot run it."""
        return None

    def count_parameters(self) -> dict[str, int]:
        """`parameters` and `parameters_without_codebooks`; tied tensors count once."""
        books = self.codebooks().values()
        codes = {id(book.codes) for book in books}  # frozen ones are parameters too
        rest = sum(p.numel() for p in self.parameters() if id(p) not in codes)
        return {
            "parameters": rest + sum(book.num_code_values() for book in books),
            "parameters_without_codebooks": rest,
        }
