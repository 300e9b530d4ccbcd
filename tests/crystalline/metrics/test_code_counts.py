import torch

from crystalline.contract import Codes
from crystalline.metrics.code_counts import count_codes, count_sizes


def test_codes_are_counted_where_their_last_token_is_scored():
    scored = torch.tensor([[True, True, True, False, False]])
    indices = torch.tensor([[[0, 1], [2, 1], [2, 0], [1, 0], [1, 0]]])
    assert count_codes(Codes(indices, 3), scored).tolist() == [[1, 0, 2], [1, 2, 0]]
    assert count_codes(Codes(indices, 3, shared=True), scored).tolist() == [[2, 2, 2]]
    used = torch.ones(indices.shape)
    used[..., 1] = 0  # second slots stand empty
    mixed = Codes(indices, 3, shared=True, weights=used)
    assert count_codes(mixed, scored).tolist() == [[1, 0, 2]]
    pairs = Codes(indices[:, :2], 3, span=2)  # they end on tokens 1 and 3
    assert count_codes(pairs, scored).tolist() == [[1, 0, 0], [0, 1, 0]]
    mask = torch.tensor([[True, False, True, True, True]])
    assert count_codes(Codes(indices, 3, mask=mask), scored).tolist() == [[1, 0, 1], [1, 1, 0]]
    assert count_sizes(Codes(indices, 3, mask=mask), scored).tolist() == [0, 0, 2]


def test_slots_that_are_not_used_are_not_counted_as_codes_of_their_position():
    scored = torch.tensor([[True, True, True, False]])
    indices = torch.tensor([[[0, 0], [2, 1], [1, 1], [0, 1]]])
    weights = torch.tensor([[[1.0, 0.0], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]]])
    assert count_sizes(Codes(indices, 3, shared=True, weights=weights), scored).tolist() == [
        0,
        2,
        1,
    ]
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    assert count_sizes(Codes(indices, 3, shared=True), nothing).tolist() == [0, 0, 0]
