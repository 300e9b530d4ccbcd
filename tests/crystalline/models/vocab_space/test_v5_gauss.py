"""What is special about v5."""

import pytest
import torch

from crystalline.models.vocab_space.fourier import Basis
from crystalline.models.vocab_space.v5_gauss import Spectrum, spectral_basis
from tests.crystalline.models.vocab_space.test_variants import make, shaken


@pytest.mark.parametrize(("vocab_size", "harmonics"), [(32, 5), (33, 16), (32, 15)])
def test_the_spectrum_is_the_real_fourier_transform_over_words(vocab_size, harmonics):
    torch.manual_seed(0)
    spectrum = Spectrum(Basis(spectral_basis(vocab_size, harmonics)))
    x = torch.randn(2, 3, vocab_size)
    kept = torch.fft.rfft(x)[..., 1 : harmonics + 1]
    found = spectrum.analyse(x)
    torch.testing.assert_close(found, torch.cat([kept.real, kept.imag], -1), atol=1e-4, rtol=1e-4)
    whole = torch.zeros(2, 3, vocab_size // 2 + 1, dtype=torch.complex64)
    whole[..., 1 : harmonics + 1] = kept
    back = torch.fft.irfft(whole, n=vocab_size)
    torch.testing.assert_close(spectrum.synthesise(found), back, atol=1e-5, rtol=1e-4)


def test_it_is_v3_with_linear_reads_and_writes_over_half_the_vocabulary():
    """Re is what the cosines read, Im the negative of what the sines read."""
    options = {"mode": "repaired", "score_scale": "inv_dim", "basis": "fourier"}
    gauss = shaken(make("v5_gauss", **options))
    assoc = shaken(make("v3_assoc", basis_norm="sqrt_v", **options))

    def interleaved(map):  # from (out, Re and Im) to (out, cosine and sine of each harmonic)
        real, imaginary = map.chunk(2, -1)
        return torch.stack([real, -imaginary], -1).flatten(-2)

    with torch.no_grad():
        for ours, theirs in zip(gauss.steps, assoc.steps, strict=True):
            memory, op = (part.block for part in ours.parts)
            their_memory, their_op = (part.block for part in theirs.parts)
            for name in ("queries", "keys", "values"):
                map = interleaved(getattr(memory, name).weight)
                getattr(their_memory, name).weight.copy_(map)
            their_memory.output.weight.copy_(interleaved(memory.output.map.weight.T) / 16)
            their_memory.gain.copy_(memory.gain)
            their_memory.decay_logit.copy_(memory.decay_logit)
            their_op.reader.weight.copy_(interleaved(op.read.T))
            their_op.mix.weight.copy_(op.mix.T)
            their_op.bias.copy_(op.bias)
            their_op.writer.weight.copy_(interleaved(op.write.map.weight.T) / 16)
            their_op.gain.copy_(op.gain)
            for part, theirs_part in zip(ours.parts, theirs.parts, strict=True):
                theirs_part.gain.copy_(part.gain)
        assoc.head.gamma.copy_(gauss.head.gamma)
    tokens = torch.randint(32, (2, 12))
    torch.testing.assert_close(gauss(tokens).logits, assoc(tokens).logits, atol=1e-3, rtol=1e-3)


def test_transforms_stay_in_full_precision_where_all_else_is_cast():
    spectrum = Spectrum(Basis(spectral_basis(32, 5)))
    x = torch.randn(1, 3, 32)
    with torch.autocast("cpu", torch.bfloat16):
        found = spectrum.analyse(x)
        back = spectrum.synthesise(found.bfloat16())
    assert found.dtype == back.dtype == torch.float32
    assert torch.equal(found, spectrum.analyse(x))


def test_maps_of_an_operation_are_its_update_without_the_activation():
    block = shaken(make("v5_gauss")).steps[0].parts[1].block
    block.activation, words = torch.nn.Identity(), torch.eye(32)[:, None]
    pushed = block(words) - block(0 * words)
    torch.testing.assert_close(block.word_maps(32)["write"].rows(0, 32), pushed[:, 0])
