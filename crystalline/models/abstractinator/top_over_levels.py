"""A new top over the levels of a trained pyramid, which are frozen."""

from __future__ import annotations

from typing import Any

from crystalline.contract import LanguageModel
from crystalline.layers.attention_form import AttentionForm
from crystalline.models.abstractinator.blocks import init_stacks
from crystalline.models.abstractinator.levels_and_top import LevelsAndTop
from crystalline.models.abstractinator.options import TopOptions
from crystalline.models.abstractinator.top import CodeSequenceTransformer
from crystalline.models.base_context import check_base_context


class TopOverLevels(LevelsAndTop):
    """What a pyramid has learned to cut, name and write stays; a top learns to foretell it.

    The levels are those of the base, under the same names; its top is left behind. They are frozen
    and stay in evaluation: no gradient, nothing counted, no losses of their own. Tokens are still
    foretold through the expanders, so their loss reaches the top as well.

    Args:
        vocab_size: Number of token ids.
        context_length: Longest sequence in tokens, at most that of the base.
        base: The trained pyramid, `model.base=<checkpoint>`; its mode is kept.
        top: Sizes of the new top.
        attention: Of the new top: form and backend.
        lambda_top_lm: Weight of the top's loss on codes; 0: it foretells no codes.
        lambda_top_regression: Weight of the top's squared error on vectors; 0: it foretells none.
        dropout: On the top's input and on what its blocks write.

    Raises:
        ValueError: If the base is another model, reads less than it should, or speaks in codes that
            are not to be foretold.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        base: LanguageModel,
        top: TopOptions,
        attention: AttentionForm,
        lambda_top_lm: float = 1.0,
        lambda_top_regression: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        if not isinstance(base, LevelsAndTop):
            raise ValueError(
                f"model.base must be a run of model=abstractinator, not of {type(base).__name__}"
            )
        check_base_context("base", base, context_length)
        if base.mode == "discrete" and lambda_top_lm <= 0:
            raise ValueError(
                "model.lambda_top_lm must be above 0: model.base is in mode discrete, "
                "where the top says codes"
            )
        highest = base.levels[-1].compressor
        shape = highest.book_shape if lambda_top_lm > 0 else None
        new = CodeSequenceTransformer(
            top, highest.d_model, base.top.stack.length, shape, lambda_top_regression > 0,
            attention, dropout,
        )  # fmt: skip
        init_stacks(new)
        super().__init__(vocab_size, context_length, base.levels, new, base.mode, base.document_end)
        self.lambda_top_lm = lambda_top_lm
        self.lambda_top_regression = lambda_top_regression
        for level in self.levels:
            level.freeze()

    def loss_weights(self, progress: float) -> dict[str, float]:
        return {"top_lm": self.lambda_top_lm, "top_regression": self.lambda_top_regression}

    def codebooks(self) -> dict[str, Any]:
        """None: codes of the base are a part of what is frozen."""
        return {}

    def load_base(self, name: str, base: LanguageModel) -> None:
        assert isinstance(base, LevelsAndTop)
        self.levels.load_state_dict(base.levels.state_dict())
