import pytest
import torch

from crystalline.layers.fusion import ResidualTokenFusionBlock
from crystalline.layers.retention import SimplifiedRetention


def make(**options) -> SimplifiedRetention:
    torch.manual_seed(0)
    layer = SimplifiedRetention(12, 3, 40, **options)
    if layer.conv is not None:
        torch.nn.init.normal_(layer.conv.weight)
    return layer


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("short_conv", [0, 3])
def test_recurrent_form_equals_parallel_form(normalised, short_conv):  # T3
    layer = make(normalised=normalised, short_conv=short_conv)
    x = torch.randn(2, 40, 12)
    state = layer.init_state(2)
    steps = torch.cat([layer(x[:, t : t + 1], state) for t in range(40)], dim=1)
    torch.testing.assert_close(steps, layer(x), atol=1e-5, rtol=1e-5)
    assert state.position == 40


@pytest.mark.parametrize("cut", [1, 2, 17, 39])
def test_chunks_of_any_size_continue_a_state(cut):
    layer = make(short_conv=4)
    x = torch.randn(2, 40, 12)
    state = layer.init_state(2)
    chunks = torch.cat([layer(x[:, :cut], state), layer(x[:, cut:], state)], dim=1)
    torch.testing.assert_close(chunks, layer(x), atol=1e-5, rtol=1e-5)


def test_output_follows_the_published_formula():
    layer = make(normalised=False)
    x = torch.randn(1, 5, 12)
    q, k, v = (part.view(5, 3, 4) for part in layer.qkv(x)[0].chunk(3, dim=-1))

    def turned(vectors):
        angle = torch.arange(5)[:, None] * 10_000 ** (-torch.tensor([0.0, 0.5]))
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        a, b = vectors[..., :2], vectors[..., 2:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    q, k = turned(q), turned(k)
    y = torch.zeros(5, 3, 4)
    for head in range(3):
        decay = 1 - 2.0 ** (-5 - head)
        for t in range(5):
            for u in range(t + 1):
                score = q[t, head] @ k[u, head] / 2.0 * decay ** (t - u)
                y[t, head] += score * v[u, head]
    expected = layer.out(y.reshape(5, 12) * torch.nn.functional.silu(layer.gate(x[0])))
    torch.testing.assert_close(layer(x)[0], expected, atol=1e-5, rtol=1e-5)


def test_a_norm_keeps_the_output_from_growing_with_the_context():
    x = torch.ones(1, 40, 12)
    grows, steady = make(normalised=False)(x).norm(dim=-1)[0], make()(x).norm(dim=-1)[0]
    assert grows[-1] > 5 * grows[0]
    assert steady[-1] < 2 * steady.min().clamp(min=1e-3) + 1


def test_num_heads_must_divide_d_model():
    with pytest.raises(ValueError, match="num_heads"):
        SimplifiedRetention(10, 3, 4)


@pytest.mark.parametrize("length", range(1, 10))
def test_fusion_halves_and_anchors_pairs_at_the_start(length):  # T8
    torch.manual_seed(0)
    fusion = ResidualTokenFusionBlock(6)
    x = torch.randn(2, 9, 6)
    fused = fusion(x[:, :length])
    assert fused.shape == (2, length // 2, 6)
    torch.testing.assert_close(fused, fusion(x)[:, : length // 2])
    # A window that starts two tokens later sees the same pairs, one place earlier.
    if length >= 4:
        torch.testing.assert_close(fusion(x[:, 2:length]), fused[:, 1:])


def test_fusion_follows_its_formula():
    torch.manual_seed(0)
    fusion = ResidualTokenFusionBlock(6)
    x = torch.randn(1, 2, 6)
    conv = fusion.conv.weight[:, :, 0] @ x[0, 0] + fusion.conv.weight[:, :, 1] @ x[0, 1]
    summed = fusion.conv_norm(conv + fusion.conv.bias) + x[0].mean(0)
    torch.testing.assert_close(
        fusion(x)[0, 0], fusion.norm(torch.nn.functional.gelu(summed)), atol=1e-5, rtol=1e-5
    )
