"""Ziggurat: a language model whose blocks write codes, with a pyramid of fused tokens on top."""

from crystalline.models.ziggurat.block import DiscretizedManifoldBlock as DiscretizedManifoldBlock
from crystalline.models.ziggurat.model import Ziggurat as Ziggurat
from crystalline.models.ziggurat.pyramid import Pyramid as Pyramid
