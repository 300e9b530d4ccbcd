"""What an intervention changes, in the model's next-token distributions. All in nats.

Every distribution is the log-softmax of logits in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crystalline.contract import Codes, Edits, LanguageModel
from crystalline.eval_mode import evaluating
from crystalline.interpret.interventions import deactivate, merge
from crystalline.interpret.sites import Code, Site


def kl(p: Float[Tensor, "*axes vocab"], q: Float[Tensor, "*axes vocab"]) -> Float[Tensor, "*axes"]:
    """KL(P || Q) = sum p ln(p / q) of two sets of logits; fp32, at least 0."""
    log_p, log_q = p.float().log_softmax(-1), q.float().log_softmax(-1)
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).clamp_min(0)


def jsd(p: Float[Tensor, "*axes vocab"], q: Float[Tensor, "*axes vocab"]) -> Float[Tensor, "*axes"]:
    """Jensen-Shannon divergence of two sets of logits; fp32, in [0, ln 2], exactly symmetric.

    KL(P || M) / 2 + KL(Q || M) / 2 with M = (P + Q) / 2.
    """
    p, q = p.float().log_softmax(-1).exp(), q.float().log_softmax(-1).exp()
    return ((_to_middle(p, q) + _to_middle(q, p)).sum(-1) / 2).clamp(0, math.log(2))


def _to_middle(p: Tensor, q: Tensor) -> Tensor:
    """Each p ln(p / m) = p ln(1 + d), d = (p - q) / (p + q): exactly 0 at p = q, precise nearby."""
    total = (p + q).clamp_min(torch.finfo(p.dtype).tiny)
    d = (p - q) / total
    return torch.where(d > -0.5, torch.special.xlog1py(p, d), torch.special.xlogy(p, 2 * p / total))


@dataclass(frozen=True)
class Specificity:
    """What a deactivated code changes where it had fired, and elsewhere."""

    fired: int
    """Scored tokens at which the code fired."""
    rest: int
    kl_fired: float
    """Mean KL(clean || ablated); NaN without tokens, here and below."""
    kl_rest: float
    loss_fired: float
    """Mean rise of the cross-entropy."""
    loss_rest: float

    @property
    def kl_ratio(self) -> float:
        """`kl_fired` / `kl_rest`: infinite where nothing else changes."""
        return _ratio(self.kl_fired, self.kl_rest)

    @property
    def loss_ratio(self) -> float:
        return _ratio(self.loss_fired, self.loss_rest)


def specificity(
    model: LanguageModel,
    batches: Iterable[tuple[Tensor, Tensor]],
    site: Site,
    code: Code,
) -> Specificity:
    """Deactivate `code` at every position of some text.

    Where a position covers several tokens, the code fires at the last of them.

    Args:
        model: Its mode is the same afterwards.
        batches: int64 (tokens, targets), each (B, T); targets of -100 are not scored.
        site: The code's site.
        code: Which.
    """
    device = next(model.parameters()).device
    edits = {site.name: deactivate(site, [code.code], code.level)}
    # A row each for fired and rest: tokens, sum of KL, sum of the loss's rise.
    sums = torch.zeros(2, 3, dtype=torch.float64, device=device)
    with evaluating(model):
        for batch in batches:
            tokens, targets = (part.to(device) for part in batch)
            clean = model(tokens, codes=True)
            ablated = model(tokens, edits=edits).logits
            risen = _loss(ablated, targets) - _loss(clean.logits, targets)
            changed = torch.stack([torch.ones_like(risen), kl(clean.logits, ablated), risen], -1)
            fired = fires(clean.codes[site.name], code, tokens.shape[1])
            for row, where in enumerate((fired, ~fired)):
                sums[row] += changed[where & (targets != -100)].double().sum(0)
    (fired_n, fired_kl, fired_loss), (rest_n, rest_kl, rest_loss) = sums.tolist()
    return Specificity(
        int(fired_n),
        int(rest_n),
        _ratio(fired_kl, fired_n),
        _ratio(rest_kl, rest_n),
        _ratio(fired_loss, fired_n),
        _ratio(rest_loss, rest_n),
    )


def fires(codes: Codes, code: Code, length: int) -> Bool[Tensor, "batch pos"]:
    """At which of `length` tokens a code fires: the last one of each position that chose it."""
    indices = codes.indices if codes.shared else codes.indices[..., code.level, None]
    chosen = (indices == code.code).any(-1)
    if codes.mask is not None:
        chosen = chosen & codes.mask
    counts = torch.zeros(len(chosen), length, dtype=torch.int64, device=chosen.device)
    last = codes.last_tokens().clamp(max=length - 1)
    return counts.scatter_add(1, last, chosen.long()) > 0


@dataclass(frozen=True)
class Composability:
    """How far several edits together do what each does alone, added up in logit space.

    The change of logits is D(e) = logits(e) - logits(clean), less its mean over the vocabulary,
    which no distribution sees; the sum of D over single edits is compared with D of all.
    """

    cosine: float
    """Mean cosine of the sum and the joint change; 1 if they point the same way."""
    relative_error: float
    """|joint - sum| / |joint| over all positions; 0 if effects add up."""
    jsd: float
    """Mean divergence of the joint distribution from the one that the sum predicts, nats."""
    joint_jsd: float
    """Mean divergence of the joint distribution from the clean one: the scale of `jsd`."""


def composability(
    model: LanguageModel,
    tokens: Int[Tensor, "batch pos"],
    edits: Sequence[Edits],
    at: Int[Tensor, " n"],
) -> Composability:
    """Compare edits together with the sum of each alone.

    Args:
        model: Its mode is the same afterwards.
        tokens: int64, on the model's device.
        edits: Each alone; together they are merged in this order.
        at: Tokens at whose next-token distributions to look.
    """
    with evaluating(model):
        clean = model(tokens).logits[:, at].float()
        joint = model(tokens, edits=merge(*edits)).logits[:, at].float()
        alone = [model(tokens, edits=edit).logits[:, at].float() for edit in edits]
    total = torch.stack([centred(logits - clean) for logits in alone]).sum(0)
    change = centred(joint - clean)
    return Composability(
        float(F.cosine_similarity(change, total, dim=-1).mean()),
        _ratio(float((change - total).norm()), float(change.norm())),
        float(jsd(joint, clean + total).mean()),
        float(jsd(joint, clean).mean()),
    )


def centred(logits: Float[Tensor, "*axes vocab"]) -> Float[Tensor, "*axes vocab"]:
    """Less the mean over the vocabulary, which no distribution sees."""
    return logits - logits.mean(-1, keepdim=True)


def _loss(
    logits: Float[Tensor, "batch pos vocab"], targets: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    return F.cross_entropy(logits.float().mT, targets, ignore_index=-100, reduction="none")


def _ratio(value: float, base: float) -> float:
    if base == 0:
        return math.copysign(math.inf, value) if value else math.nan
    return value / base
