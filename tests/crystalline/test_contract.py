import pytest
import torch
from torch import nn

from crystalline.contract import Codes, ModelOutput
from crystalline.layers.cross_entropy import cross_entropy
from crystalline.models.transformer import Transformer
from tests.model_zoo import build, ziggurat


def test_a_position_of_a_site_ends_on_the_last_token_of_its_span():
    indices = torch.zeros(2, 3, 1, dtype=torch.int64)
    assert Codes(indices, 4).last_tokens().tolist() == [[0, 1, 2]] * 2
    assert Codes(indices, 4, span=4).last_tokens().tolist() == [[3, 7, 11]] * 2
    ends = torch.tensor([[1, 2, 9], [0, 3, 4]])
    assert Codes(indices, 4, span=4, ends=ends).last_tokens() is ends


def output(with_head: bool) -> tuple[ModelOutput, list[torch.Tensor]]:
    """Of 2 x 3 positions and 7 tokens, and what it is made of."""
    generator = torch.Generator().manual_seed(0)
    width = 5 if with_head else 7
    hidden = torch.randn(2, 3, width, generator=generator).requires_grad_()
    if not with_head:
        return ModelOutput(hidden), [hidden]
    head = torch.randn(7, width, generator=generator).requires_grad_()
    return ModelOutput(hidden, head=head), [hidden, head]


def test_scores_are_the_head_times_what_it_reads_or_that_itself_without_a_head():
    bare, (hidden,) = output(with_head=False)
    assert bare.logits is hidden
    headed, (hidden, head) = output(with_head=True)
    torch.testing.assert_close(headed.logits, hidden @ head.T)


@pytest.mark.parametrize("with_head", [False, True])
def test_the_cross_entropy_of_an_output_is_that_of_its_scores(with_head):
    made, parts = output(with_head)
    targets = made.logits.argmax(-1)
    targets[0] = (targets[0] + 1) % 7  # wrong
    targets[1, 2] = -100  # not scored
    found, wanted = made.cross_entropy(targets), cross_entropy(made.logits, targets)
    for name in ("loss", "nats", "correct"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name))
    assert found.correct.tolist() == [[False] * 3, [True, True, False]]
    for a, b in zip(
        torch.autograd.grad(found.loss, parts),
        torch.autograd.grad(wanted.loss, parts),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_parameters_are_counted_once_and_codes_apart():
    tied = Transformer(30, 8, 16, 1, 2)
    by_hand = sum({id(p): p.numel() for p in tied.parameters()}.values())
    assert tied.count_parameters() == {
        "parameters": by_hand,
        "parameters_without_codebooks": by_hand,
    }
    for update in ("gradient", "ema"):
        model = ziggurat(quantizer={"update": update})
        codes = sum(book.codes.numel() for book in model.codebooks().values())
        counts = model.count_parameters()
        assert counts["parameters"] - counts["parameters_without_codebooks"] == codes
    frozen = ziggurat(quantizer={"update": "frozen"}).count_parameters()
    moving = ziggurat(quantizer={"update": "gradient"}).count_parameters()
    assert frozen == moving


def test_sites_are_module_paths_in_the_order_of_computation():
    model = build("ziggurat_2")
    sites = list(model.codebooks())
    assert sites == [
        "stages.0.blocks.0.quantizer",
        "stages.0.blocks.1.quantizer",
        "stages.1.blocks.0.quantizer",
    ]
    found = model(torch.zeros(1, 8, dtype=torch.int64), codes=True).codes
    assert list(found) == sites
    assert model(torch.zeros(1, 8, dtype=torch.int64)).codes == {}


def test_no_two_sites_share_a_codebook():
    books = list(build("ziggurat_4").codebooks().values())
    assert len({book.codes.data_ptr() for book in books}) == len(books) == 5


def test_the_second_optimizer_owns_the_codes_and_nothing_else():
    model = build("ziggurat_2")
    owned = dict(model.codebook_parameters())
    assert set(owned) == {f"{site}.codes" for site in model.codebooks()}
    assert all(isinstance(p, nn.Parameter) for p in owned.values())
    assert not dict(build("ziggurat_ema").codebook_parameters())
