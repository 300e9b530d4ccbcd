import numpy as np
import torch

from datamodules.batch import IGNORED
from datamodules.shuffling import shuffled
from tests.datamodules.test_text import module


def test_an_order_is_a_function_of_its_key_and_the_seed():
    places = np.arange(60).reshape(3, 20)
    found = shuffled(places, [7, 8, 7], seed=1)
    assert (found[:, 0] == places[:, 0]).all()
    assert (np.sort(found, axis=1) == places).all()
    assert (found[0] == found[2] - 40).all()
    assert (found[0] != found[1] - 20).any()
    assert (shuffled(places, [7, 8, 7], seed=2) != found).any()
    assert (places == np.arange(60).reshape(3, 20)).all()


def test_windows_lose_their_order_and_no_token(tmp_path):
    plain = module(tmp_path / "plain")
    mixed = module(tmp_path / "plain", shuffle_tokens=True)
    again = module(tmp_path / "plain", shuffle_tokens=True)
    for batch in (lambda data: data.train_batch(3), lambda data: evaluation(data, "val")):
        one, other, same = batch(plain), batch(mixed), batch(again)
        assert torch.equal(other.targets, same.targets)
        assert torch.equal(one.tokens[:, 0], other.tokens[:, 0])
        assert not torch.equal(one.targets, other.targets)
        assert torch.equal(one.targets.sort(1).values, other.targets.sort(1).values)
        inside = other.targets[:, :-1] != IGNORED
        assert torch.equal(other.tokens[:, 1:][inside], other.targets[:, :-1][inside])
    assert not torch.equal(mixed.train_batch(3).targets, mixed.train_batch(4).targets)
    assert mixed.split_bytes == plain.split_bytes


def evaluation(data, split):
    return data.eval_windows(split, np.arange(data.num_eval_windows(split)))
