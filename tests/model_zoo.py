"""Small builds of every model and option that changes the path of information."""

from collections.abc import Callable
from functools import partial

import torch

from crystalline.contract import LanguageModel
from crystalline.models.abstractinator import (
    AbstractinatorPyramid,
    AttentionForm,
    EncoderOptions,
    EntropyLanguageModel,
    EntropyOptions,
    ExpanderOptions,
    Segmentation,
    TopOptions,
    TopOverLevels,
)
from crystalline.models.crystal import Crystal
from crystalline.models.crystalline import Crystalline, Selection, Sites
from crystalline.models.transformer import Transformer
from crystalline.models.ziggurat import Pyramid, Ziggurat
from crystalline.quantizers.calibration import init_codebooks
from crystalline.quantizers.residual import ResidualQuantizer

VOCAB, CONTEXT, WIDTH, HEADS = 30, 40, 16, 2
INSIDE = ("attn_pre", "attn_post", "mlp")
quantizer = partial(ResidualQuantizer, codebook_size=16, num_codebooks=2)


def ziggurat(stages: int = 2, **options) -> Ziggurat:
    """A Ziggurat with one block a stage, but for two in stage 0."""
    pyramid = Pyramid(**options.pop("pyramid", {"objective": "bag"}))
    book = partial(quantizer, **options.pop("quantizer", {}))
    return Ziggurat(
        VOCAB, CONTEXT, WIDTH, [2] + [1] * (stages - 1), HEADS, book, pyramid, **options
    )


def crystalline(
    mode: str = "crystalline", places: tuple[str, ...] = INSIDE, **options
) -> Crystalline:
    """Two layers; three codes of 16 a position unless `num_codes_k` says otherwise."""
    k = options.pop("num_codes_k", 3)
    temp_init = options.pop("temp_init", 0.2)
    own = {key: options.pop(key) for key in ("learned_positions", "reach") if key in options}
    of_sites = {
        key: options.pop(key)
        for key in ("groups", "layers", "corruption", "output_rms")
        if key in options
    }
    sites = Sites(places, **of_sites)
    return Crystalline(
        VOCAB, CONTEXT, WIDTH, 2, HEADS, 16, k, sites, Selection(**options), mode,
        temp_init=temp_init, **own,
    )  # fmt: skip


def crystal(layers: int = 1, **options) -> Crystal:
    """A field of 12 neurons and room for 12 more in each block, behind attention."""
    return Crystal(
        VOCAB, CONTEXT, WIDTH, layers, HEADS, capacity=24, founders=12, attention="every",
        **options,
    )  # fmt: skip


def abstractinator(num_levels: int, **options) -> AbstractinatorPyramid:
    """Segments of at most five symbols; every part as small as it can be."""
    book = partial(quantizer, codebook_size=16, num_codebooks=1, codebook_dim=8)
    return AbstractinatorPyramid(
        VOCAB, CONTEXT, WIDTH, HEADS, num_levels, book,
        EntropyOptions(d_model=8, num_layers=1, num_heads=2, window=6),
        Segmentation("relative", max_length=5), EncoderOptions(window=4),
        ExpanderOptions(num_layers=1, window=32),
        TopOptions(d_model=16, num_layers=1, num_heads=2), AttentionForm(), **options,
    )  # fmt: skip


MODELS: dict[str, Callable[[], LanguageModel]] = {
    "transformer": lambda: Transformer(VOCAB, CONTEXT, WIDTH, 2, HEADS),
    "ziggurat_1": lambda: ziggurat(1),
    "ziggurat_2": lambda: ziggurat(2, short_conv=3, gated=True, quantizer={"codebook_dim": 8}),
    "ziggurat_3": lambda: ziggurat(3, pyramid={"objective": "codes"}),
    "ziggurat_4": lambda: ziggurat(4),
    "ziggurat_source": lambda: ziggurat(3, mode="source"),
    "ziggurat_add": lambda: ziggurat(placement="add"),
    "ziggurat_add_rotation": lambda: ziggurat(placement="add", quantizer={"estimator": "rotation"}),
    "ziggurat_stream": lambda: ziggurat(placement="replace_stream"),
    "ziggurat_none": lambda: ziggurat(placement="none"),
    "ziggurat_continuous": lambda: ziggurat(placement="continuous"),
    "ziggurat_ema": lambda: ziggurat(quantizer={"update": "ema"}),
    "ziggurat_gate": lambda: ziggurat(4, pyramid={"feedback": "gate"}),
    "ziggurat_xattn": lambda: ziggurat(3, pyramid={"feedback": "xattn"}),
    "crystalline": lambda: crystalline(groups=2),
    "crystalline_block": lambda: crystalline(places=("block",), num_codes_k=6),
    "crystalline_position": lambda: crystalline(
        places=("attn_pre", "mlp"), temp_scope="position", estimator="gumbel_ste"
    ),
    "crystalline_input_ste": lambda: crystalline(
        temp_scope="fixed", estimator="input_ste", noise=False, learned_positions=True
    ),
    "crystalline_past": lambda: crystalline(reach="past", corruption={"mlp": 0.5}),
    "crystalline_before": lambda: crystalline(reach="before"),
    "crystalline_rotation": lambda: crystalline(temp_scope="annealed", estimator="rotation"),
    "crystalline_soft": lambda: crystalline(temp_scope="head", estimator="soft"),
    "crystalline_source": lambda: crystalline(
        "source", places=("mlp",), temp_init=2.0, num_codes_k=6
    ),
    "codebook_features": lambda: crystalline("codebook_features", aggregate="sum"),
    "crystal": lambda: crystal(2),
    "crystal_faithful": lambda: crystal(mode="faithful"),
    "crystal_geometric": lambda: crystal(attention_kind="geometric", fading=4.0, field_heads=2),
    "crystalline_nowhere": lambda: crystalline(places=()),
    "abstractinator_1": lambda: abstractinator(1),
    "abstractinator_2": lambda: abstractinator(2, document_end=0),
    "abstractinator_entropy": lambda: EntropyLanguageModel(
        VOCAB, CONTEXT, EntropyOptions(d_model=8, num_heads=2, window=6), AttentionForm(), 0
    ),
    "abstractinator_top": lambda: TopOverLevels(
        VOCAB, CONTEXT, abstractinator(2, mode="discrete"), TopOptions(16, 1, 2), AttentionForm()
    ),
}


def build(name: str) -> LanguageModel:
    """The model, away from its silent start: gates and convolutions open, codes on the data."""
    torch.manual_seed(0)
    model = MODELS[name]()
    for key, parameter in model.named_parameters():
        if key.endswith(".gate") and parameter.ndim == 0:
            torch.nn.init.constant_(parameter, 0.7)
        if ("conv.weight" in key and "fusions" not in key) or "forget_weight" in key:
            torch.nn.init.normal_(parameter)
    init_codebooks(model, torch.randint(0, VOCAB, (4, CONTEXT)), seed=0)
    return model
