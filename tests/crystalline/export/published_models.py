"""Random tensors of a model that the published layouts can hold."""

import numpy as np

PRUNED, WHOLE = 11_706, 50_257
"""GPT-2's ids, and those of them that occur in tiny Shakespeare."""


def tensors(
    vocab_size: int, d: int = 128, t: int = 64, h: int = 256, n: int = 788, frozen: int = 567
) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    block = {
        "attention.qkv.weight": (3 * d, d), "attention.qkv.bias": (3 * d,),
        "attention.out.weight": (d, d), "attention.out.bias": (d,),
        "field.positions": (n, d), "field.values": (n, d), "field.width": (n,),
        "mlp.up.weight": (h, d), "mlp.up.bias": (h,),
        "mlp.down.weight": (d, h), "mlp.down.bias": (d,),
    }  # fmt: skip
    for norm in ("attention_norm", "field_norm", "mlp_norm"):
        block |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    shapes = {f"blocks.0.{name}": shape for name, shape in block.items()}
    shapes |= {"embedding.weight": (vocab_size, d), "position_embedding.weight": (t, d)}
    shapes |= {"head.weight": (vocab_size, d), "head.bias": (vocab_size,)}
    found = {name: random.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}
    found["blocks.0.field.frozen"] = random.permutation(n) < frozen
    return found
