"""A stack that is trained block by block: a block that is mostly frozen makes room for the next."""

from __future__ import annotations

from collections.abc import Sequence

from crystalline.models.crystal.block import Block


class HandOver:
    """All blocks are built at the start; those that are not there yet are passed by.

    Args:
        frozen: Share of a block's neurons that are frozen when the next one comes.
        min_epochs: Epochs that a block learns at least.
    """

    def __init__(self, frozen: float = 0.5, min_epochs: int = 40) -> None:
        self.frozen = frozen
        self.min_epochs = min_epochs

    def start(self, blocks: Sequence[Block], *, silent: bool) -> None:
        """Leave the first block alone."""
        for block in blocks[1:]:
            block.opened.fill_(False)
            block.rate.zero_()
            if silent:
                block.silence()

    def end_epoch(self, blocks: Sequence[Block], epoch: int, *, silent: bool) -> None:
        """Freeze the block that learns and open the next one, where it is time.

        Args:
            blocks: Changed in place.
            epoch: That ends.
            silent: Whether neurons of the new block are born now, not at the start of training.
        """
        here = [block for block in blocks if bool(block.opened)]
        active = here[-1]
        fields = active.fields().values()
        alive = sum(int(field.alive.sum()) for field in fields)
        frozen = sum(int((field.alive & field.frozen).sum()) for field in fields)
        if len(here) == len(blocks) or epoch - int(active.since) < self.min_epochs:
            return
        if frozen < self.frozen * alive:
            return
        active.rate.zero_()
        following = blocks[len(here)]
        following.opened.fill_(True)
        following.rate.fill_(1.0)
        following.since.fill_(epoch)
        if silent:
            for field in following.fields().values():
                field.birth.fill_(epoch)
