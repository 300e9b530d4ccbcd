"""Small files with everything in them."""

import numpy as np

from crystalline.export.container import CrystalFile, StoredTensor
from crystalline.export.schemes import SCHEMES

METADATA = {"a.count": 7, "b.share": 0.25, "c.text": "Łódź", "d.truth": True}


def small_file(**metadata) -> CrystalFile:
    """A tensor in every scheme."""
    random = np.random.default_rng(0)
    tensors = {}
    for name, scheme in SCHEMES.items():
        array = random.normal(size=(3, 2, 5)).astype(np.float32)
        if not scheme.rounds and name != "f32":
            array = random.integers(0, 200, size=(3, 2, 5))
        tensors[f"t.{name}"] = StoredTensor.of(array, name)
    return CrystalFile(METADATA | metadata, tensors)
