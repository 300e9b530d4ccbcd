"""Crystalline: a transformer with bottlenecks of codes, whose sharpness is learned."""

from crystalline.models.crystalline.model import Crystalline as Crystalline
from crystalline.models.crystalline.sites import Selection as Selection
from crystalline.models.crystalline.sites import Sites as Sites
