import copy
from functools import partial

import pytest
import torch

from crystalline.models.ziggurat import Pyramid, Ziggurat
from crystalline.quantizers.calibration import init_codebooks
from crystalline.quantizers.residual import ResidualQuantizer
from tests.model_zoo import CONTEXT, VOCAB, build, ziggurat

TOKENS = torch.randint(0, VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(0))


def cross_entropy(model: Ziggurat) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    output = model(TOKENS[:, :-1])
    loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), TOKENS[:, 1:].flatten())
    return loss, output.losses


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_source_mode_trains_codes_by_their_loss_and_upper_stages_not_at_all(stages):  # T1
    model = ziggurat(stages, mode="source")
    prediction, losses = cross_entropy(model)
    prediction.backward(retain_graph=True)
    codes = dict(model.codebook_parameters())
    assert all(parameter.grad is None for parameter in codes.values())
    losses["codebook"].backward()
    assert all(parameter.grad is not None for parameter in codes.values())
    for name, parameter in model.named_parameters():
        if name in codes:
            continue
        upper = name.startswith(("stages.1", "stages.2", "stages.3", "fusions"))
        assert (parameter.grad is None) == upper, name


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_upper_stages_cannot_change_the_logits(stages):
    model = build(f"ziggurat_{stages}").eval()
    before = model(TOKENS).logits
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(("embedding", "stages.0", "norm")):
                parameter.normal_()
    assert torch.equal(model(TOKENS).logits, before)
    assert torch.equal(model(TOKENS, codes=True).logits, before)


@pytest.mark.parametrize("objective", ["bag", "codes"])
@pytest.mark.parametrize("detach", [False, True])
def test_stage_objectives_reach_stage_0_unless_detached(objective, detach):
    model = ziggurat(3, pyramid={"objective": objective, "detach": detach})
    model(TOKENS).losses["pyramid"].backward()
    gradient = model.stages[0].blocks[0].mlp.up.weight.grad
    assert (gradient is None) == detach
    assert model.stages[1].blocks[0].mlp.up.weight.grad.abs().sum() > 0


def test_bag_objective_is_the_mean_cross_entropy_of_the_next_group():
    model = build("ziggurat_4")
    objective = model.objectives[1]
    top = torch.randn(2, CONTEXT // 4, 16)
    logits = objective.norm(objective.read(top)) @ model.embedding.weight.T
    nats = [
        torch.nn.functional.cross_entropy(logits[:, j], TOKENS[:, 4 * (j + 1) + i])
        for j in range(CONTEXT // 4 - 1)
        for i in range(4)
    ]
    expected = torch.stack(nats).mean()
    torch.testing.assert_close(objective(top, TOKENS, model.embedding.weight), expected)


def test_feedback_reads_only_finished_vectors_and_starts_silent():
    flat, model = ziggurat(2), ziggurat(2, pyramid={"feedback": "gate"})
    feedback = model.feedbacks[0]
    h, vectors = torch.randn(1, 6, 16), torch.randn(1, 3, 16)
    assert torch.equal(feedback(h, vectors), h)
    torch.nn.init.constant_(feedback.gate, 1.0)
    read = (feedback(h, vectors) - h)[0]
    torch.testing.assert_close(read[1], read[2])  # vector 0 ends at token 1 and serves until 2
    assert not torch.allclose(read[0], read[1])  # the null vector before
    assert flat.tail is None


def test_parameter_count_of_the_published_size():
    quantizer = partial(ResidualQuantizer, codebook_size=1024, num_codebooks=4, codebook_dim=8)
    with torch.device("meta"):
        model = Ziggurat(100_277, 256, 384, [3, 3], 6, quantizer, Pyramid(), mode="source")
    decays = 6 * 6  # counted as parameters in the published code, buffers here
    assert model.count_parameters()["parameters"] == 59_768_100 - decays


def test_codes_start_as_published_or_from_data():  # T14
    source, fixed = ziggurat(mode="source"), ziggurat()
    book = next(iter(source.codebooks().values()))
    assert book.codes.std().item() == pytest.approx(0.02, rel=0.1)
    before = book.codes.clone()
    init_codebooks(source, TOKENS, seed=0)
    assert torch.equal(book.codes, before)

    init_codebooks(fixed, TOKENS, seed=0)
    first = fixed.codebooks()["stages.0.blocks.0.quantizer"]
    seen = {}
    hook = first.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    fixed.eval()(TOKENS)
    hook.remove()
    expected = copy.deepcopy(first)
    torch.nn.init.normal_(expected.codes)
    expected.init_from_data(seen["x"], torch.Generator().manual_seed(0))
    torch.testing.assert_close(first.codes, expected.codes)


def test_sites_have_stable_names_and_spans():
    codes = build("ziggurat_3").eval()(TOKENS, codes=True).codes
    assert {site: c.span for site, c in codes.items()} == {
        "stages.0.blocks.0.quantizer": 1,
        "stages.0.blocks.1.quantizer": 1,
        "stages.1.blocks.0.quantizer": 2,
        "stages.2.blocks.0.quantizer": 4,
    }
    assert codes["stages.2.blocks.0.quantizer"].last_tokens()[0, :2].tolist() == [3, 7]


def test_two_blocks_never_share_a_codebook():
    books = list(build("ziggurat_4").codebooks().values())
    assert len({id(book.codes) for book in books}) == len(books) == 5


def test_an_edit_changes_the_logits_from_its_position_on_and_reaches_cached_steps():
    model = build("ziggurat_2").eval()
    site = "stages.0.blocks.1.quantizer"

    def edit(choice):
        return torch.where((choice.positions >= 20)[:, None], 3, choice.indices)

    plain = model(TOKENS).logits
    edited = model(TOKENS, edits={site: edit}).logits
    assert torch.equal(edited[:, :20], plain[:, :20])
    assert not torch.allclose(edited[:, 20:], plain[:, 20:])
    cache = model.init_cache(2)
    parts = [
        model(TOKENS[:, a:b], edits={site: edit}, cache=cache).logits
        for a, b in [(0, 19), (19, 21), (21, 40)]
    ]
    torch.testing.assert_close(torch.cat(parts, 1), edited, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"mode": "mixed"}, "model.mode"),
        ({"placement": "above"}, "model.placement"),
        ({"pyramid": {"objective": "none"}}, "learn nothing"),
        ({"pyramid": {"objective": "codes"}, "placement": "none"}, "needs codes"),
    ],
)
def test_contradictions_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        ziggurat(2, **options)


def test_source_mode_divides_by_blocks_that_never_ran():  # Z12
    model = ziggurat(4, mode="source")
    tokens = TOKENS[:, :3]  # stage 2 has no vector of 4 tokens: 3 of 5 blocks run
    source_loss = model(tokens).losses["codebook"]
    model.mode = "fixed"
    torch.testing.assert_close(model(tokens).losses["codebook"], source_loss * 5 / 3)
