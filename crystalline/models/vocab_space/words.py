"""The words that a state speaks of: what is discrete in a model whose states are words' scores."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalline.contract import Choice, Codes, Edit


class TopWords(nn.Module):
    """A site of the contract: the k words of largest score in what the head would read here.

    An edit exchanges words: the score of a word that was listed and is so no more goes to the word
    in its slot, and the other way round, so a state keeps its size.

    Args:
        num_words: k.
    """

    def __init__(self, num_words: int) -> None:
        super().__init__()
        self.num_words = num_words

    def forward(
        self,
        scores: Float[Tensor, "batch pos vocab"],
        edit: Edit | None = None,
        positions: Int[Tensor, " pos"] | None = None,
    ) -> tuple[Float[Tensor, "batch pos vocab"], Codes]:
        """The scores, changed where an edit asks for it, and the words chosen."""
        choice = Choice.of_best(scores, self.num_words, positions)
        chosen = choice.indices
        if edit is not None:
            wanted = edit(choice)
            scores, chosen = exchanged(scores, chosen, wanted), wanted
        return scores, Codes(chosen, scores.shape[-1], shared=True)


def exchanged(
    scores: Float[Tensor, "batch pos vocab"],
    listed: Int[Tensor, "batch pos k"],
    wanted: Int[Tensor, "batch pos k"],
) -> Float[Tensor, "batch pos vocab"]:
    """Scores in which, slot after slot, a listed word and the wanted one have changed places."""
    for old, new in zip(listed.split(1, -1), wanted.split(1, -1), strict=True):
        of_old, of_new = scores.gather(-1, old), scores.gather(-1, new)
        scores = scores.scatter(-1, old, of_new).scatter(-1, new, of_old)
    return scores
