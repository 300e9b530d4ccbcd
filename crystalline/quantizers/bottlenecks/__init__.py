"""Bottlenecks of top-k codes: each position leaves as a sum of the k codes most like it."""

from crystalline.quantizers.bottlenecks.base import Bottleneck as Bottleneck
from crystalline.quantizers.bottlenecks.base import BottleneckOutput as BottleneckOutput
from crystalline.quantizers.bottlenecks.codebook_features import (
    CodebookFeatures as CodebookFeatures,
)
from crystalline.quantizers.bottlenecks.crystalline import (
    CrystallineBottleneck as CrystallineBottleneck,
)
from crystalline.quantizers.bottlenecks.noise import GaussianNoise as GaussianNoise
from crystalline.quantizers.bottlenecks.source import SourceBottleneck as SourceBottleneck
from crystalline.quantizers.bottlenecks.temperature import Temperature as Temperature
