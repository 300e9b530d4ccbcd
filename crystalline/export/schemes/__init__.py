"""How tensors lie in a .crystal file."""

from crystalline.export.schemes.groupwise import Groupwise
from crystalline.export.schemes.plain import Half, Plain
from crystalline.export.schemes.rowwise import Rowwise
from crystalline.export.schemes.scheme import Clip, Packed, Scheme
from crystalline.export.schemes.tensorwise import Tensorwise

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Plain(0, "f32", "<f4"),
        Half(),
        Plain(2, "u8", "u1"),
        Plain(3, "u16", "<u2"),
        Plain(4, "u32", "<u4"),
        Plain(5, "i32", "<i4"),
        Plain(6, "i64", "<i8"),
        Tensorwise(16, 8),
        Tensorwise(17, 16),
        Rowwise(),
        Groupwise(19, 6),
        Groupwise(20, 4),
    )
}

__all__ = ["SCHEMES", "Clip", "Packed", "Scheme"]
