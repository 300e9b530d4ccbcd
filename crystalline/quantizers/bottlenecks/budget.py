"""How many codes a position has: k on average over a batch, as many as it needs itself."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

BUDGETS = ("position", "batch")
_DECAY = 0.99  # share of the old threshold that a round keeps


class BatchBudget(nn.Module):
    """1 to 2k codes a position, k on average (BatchTopK, Bussmann et al. 2024, arXiv:2412.06410).

    In training the N positions of a pass share k * N codes: the best of each, then the (k - 1) N
    best of the others. So a later position may take what an earlier one would have had. Evaluation
    asks no other position: a code passes where its score is at least `threshold`, the running mean
    over rounds of the lowest score that a choice without noise would have let pass. Unlike the
    paper, positions have a least and a most.

    A position has 2k slots. Those that it does not use repeat its best code: a choice is the set of
    different codes in the slots, and a copied or edited choice brings its own number of codes.

    Args:
        num_codes_k: k.
        codebook_size: K.

    Raises:
        ValueError: If k is 1, which leaves nothing to share, or 2k is above K.
    """

    threshold: Float[Tensor, ""]
    """Infinite before the first round: every position has its best code alone."""
    round_cuts: Float[Tensor, " two"]
    """Sum of this round's cuts, and their number."""

    def __init__(self, num_codes_k: int, codebook_size: int) -> None:
        super().__init__()
        if not 2 <= num_codes_k <= codebook_size // 2:
            raise ValueError(
                "with budget=batch, num_codes_k must lie in [2, codebook_size / 2], got "
                f"{num_codes_k} and {codebook_size}"
            )
        self.num_codes_k = num_codes_k
        self.num_slots = 2 * num_codes_k
        self.register_buffer("threshold", torch.tensor(float("inf")))
        self.register_buffer("round_cuts", torch.zeros(2), persistent=False)

    def forward(
        self,
        indices: Int[Tensor, "n slots"],
        scores: Float[Tensor, "n slots"],
        noiseless: Float[Tensor, "n slots"],
        *,
        shared: bool = False,
    ) -> Int[Tensor, "n slots"]:
        """The indices, the best one in place of those that are not used.

        Args:
            indices: Each position's best, best first.
            scores: What they were chosen by.
            noiseless: The largest similarity / temperature of each position, largest first.
            shared: Whether positions share their codes as in training, whatever the mode.
        """
        if self.training:
            self.note(noiseless)
        share = shared or self.training
        used = self.shared_out(scores) if share else self.passing(scores)
        return torch.where(used, indices, indices[:, :1])

    def shared_out(self, scores: Float[Tensor, "n slots"]) -> Bool[Tensor, "n slots"]:
        """Which slots are used when these positions share k * n codes."""
        others = scores[:, 1:].flatten()
        chosen = others.topk(self._shared(scores), sorted=False).indices
        used = torch.zeros_like(others, dtype=torch.bool).index_fill(0, chosen, True)
        return torch.cat(
            [torch.ones_like(used[: len(scores), None]), used.view(len(scores), -1)], 1
        )

    def passing(self, scores: Float[Tensor, "*axes slots"]) -> Bool[Tensor, "*axes slots"]:
        """Which slots are used by the threshold; the first one always is."""
        first = torch.arange(scores.shape[-1], device=scores.device) == 0
        return (scores >= self.threshold) | first

    def used(self, indices: Int[Tensor, "*axes slots"]) -> Bool[Tensor, "*axes slots"]:
        """Which slots hold a code that no slot before them holds."""
        return ~(indices[..., :, None] == indices[..., None, :]).tril(-1).any(-1)

    @torch.no_grad()
    def note(self, noiseless: Float[Tensor, "n slots"]) -> None:
        """Keep what a choice without noise would have let pass, for `end_round`."""
        cut = noiseless[:, 1:].flatten().topk(self._shared(noiseless), sorted=False).values.amin()
        self.round_cuts += torch.stack([cut, torch.ones_like(cut)])

    @torch.no_grad()
    def end_round(self, skip: Bool[Tensor, ""]) -> None:
        """Move the threshold; all ranks agree. With `skip` only forget the round."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.round_cuts)
        total, passes = self.round_cuts
        cut = total / passes.clamp(min=1)
        moved = torch.lerp(cut, self.threshold, _DECAY)
        moved = torch.where(self.threshold.isinf(), cut, moved)
        self.threshold.copy_(torch.where(skip | (passes == 0), self.threshold, moved))
        self.round_cuts.zero_()

    def _shared(self, scores: Tensor) -> int:
        return (self.num_codes_k - 1) * len(scores)
