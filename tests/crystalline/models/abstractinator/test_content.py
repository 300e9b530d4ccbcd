"""What a segment is asked for: its own symbols, from its vector alone."""

import torch

from tests.crystalline.models.abstractinator.building import CONTEXT, VOCAB, pyramid

TEXT = torch.randint(0, VOCAB, (2, CONTEXT), generator=torch.Generator().manual_seed(3))


def asked(model, text):
    climbs, _ = model.climb(model.read(text, None), {}, None)
    level, (symbols, _, segments) = model.levels[0], climbs[0]
    assert level.content is not None
    return level.content, symbols, segments


def test_the_loss_is_that_of_finished_segments_symbols():
    model = pyramid(num_levels=1)
    head, symbols, segments = asked(model, TEXT)
    nats = []
    for row in range(len(TEXT)):
        for t in range(CONTEXT):
            s = int(segments.cut.segment[row, t])
            if not segments.finished[row, s]:
                continue
            place = t - int((segments.cut.segment[row] == s).nonzero()[0])
            h = head.norm(segments.vectors[row, s]) + head.place.weight[place]
            scores = head.names(head.down(torch.nn.functional.gelu(head.up(h))))
            nats.append(-scores.log_softmax(-1)[TEXT[row, t]])
    assert len(nats) < TEXT.numel()
    torch.testing.assert_close(head(symbols, segments, None), torch.stack(nats).mean())


def test_levels_above_are_asked_for_codes_and_continuous_ones_for_nothing():
    losses = pyramid(num_levels=2).train()(TEXT).losses
    assert losses["content"] > 0
    model = pyramid(num_levels=2, quantize=False, entropy={"head": "gaussian"})
    assert model.levels[0].content is not None
    assert model.levels[1].content is None
    assert "content" not in pyramid(lambda_content=0.0).train()(TEXT).losses


def test_it_teaches_the_encoder_and_no_code():
    model = pyramid(num_levels=2).train()
    model(TEXT).losses["content"].backward()
    for name, parameter in model.named_parameters():
        if name.endswith("codes") or ".expander." in name or "top." in name:
            assert parameter.grad is None or not parameter.grad.any(), name
    encoder = model.levels[0].compressor.encoder
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())
