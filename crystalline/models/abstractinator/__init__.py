"""Abstractinator: bytes cut into segments by surprise, a code for each, and codes of codes."""

from crystalline.layers.attention_form import AttentionForm as AttentionForm
from crystalline.models.abstractinator.entropy_language_model import (
    EntropyLanguageModel as EntropyLanguageModel,
)
from crystalline.models.abstractinator.level import Abstractinator as Abstractinator
from crystalline.models.abstractinator.options import EncoderOptions as EncoderOptions
from crystalline.models.abstractinator.options import EntropyOptions as EntropyOptions
from crystalline.models.abstractinator.options import ExpanderOptions as ExpanderOptions
from crystalline.models.abstractinator.options import Segmentation as Segmentation
from crystalline.models.abstractinator.options import TopOptions as TopOptions
from crystalline.models.abstractinator.pyramid import (
    AbstractinatorPyramid as AbstractinatorPyramid,
)
from crystalline.models.abstractinator.top_over_levels import TopOverLevels as TopOverLevels
