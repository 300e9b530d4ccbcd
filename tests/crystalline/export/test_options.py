"""The keys of the command: what is unknown or contradicts itself is one line."""

import pytest
from omegaconf import OmegaConf

from crystalline.command import CONF_DIR
from crystalline.errors import UserError
from crystalline.export.model_file import Rounding
from crystalline.export.options import Options
from crystalline.export.precisions import PRECISIONS


def options(**keys) -> Options:
    return Options.of(OmegaConf.merge(OmegaConf.load(CONF_DIR / "export.yaml"), keys))


def test_clipping_is_for_precisions_that_clip():
    found = options(precision="all", clip="none", only="head")
    assert found.precisions == tuple(PRECISIONS)
    assert found.rounding("int4_groups") == Rounding("int4_groups", "head", "none")
    assert found.rounding("int8") == Rounding("int8", "head", None)
    assert options().rounding("int8_rows") == Rounding("int8_rows")


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"precision": "int8_row"}, "did you mean int8_rows?"),
        ({"split": "all"}, "split: no 'all'"),
        ({"layout": "v3"}, "layout: no 'v3'"),
        ({"target": "rust"}, "target: no 'rust'"),
        ({"clip": "max"}, "clip: no 'max'"),
        ({"clip": "mse", "precision": "int8"}, "precision=int8 clips nothing"),
        ({"only": "("}, "no regular expression"),
        ({"layout": "v2", "precision": "int8"}, r"knows precision=float32 \| mixed8"),
        ({"layout": "v1", "precision": "all"}, "knows precision="),
        ({"layout": "v1", "precision": "int8", "only": "head"}, "has no choice"),
        ({"target": "c_source", "precision": "all"}, "name one precision"),
    ],
)
def test_what_is_wrong_is_one_line(keys, line):
    with pytest.raises(UserError, match=line):
        options(**keys)
