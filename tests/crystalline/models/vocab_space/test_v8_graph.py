"""What is special about v8."""

import pytest
import torch

from crystalline.models.vocab_space.blocks import rms
from crystalline.models.vocab_space.v8_graph import Graph, WordGraph


def test_an_entry_of_the_graph_is_how_much_one_word_pushes_another():
    torch.manual_seed(0)
    graph = WordGraph(11, 3, "relu").double()
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.copy_(torch.rand_like(parameter))  # above 0, where relu is the identity
        graph.bias.zero_()
    pushes = torch.cat([graph(word[None, None]) for word in torch.eye(11, dtype=torch.float64)])
    (table,) = graph.word_maps(11).values()
    torch.testing.assert_close(pushes[:, 0].float(), table.rows(0, 11))


def test_both_parts_are_what_their_formulas_say():
    torch.manual_seed(0)
    model = Graph(7, 9, num_steps=1, rank=2, mode="faithful", state_dtype="fp32", num_words=1)
    memory, graph = (part.block for part in model.steps[0].parts)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    tokens = torch.randint(7, (1, 6))
    x = rms(torch.nn.functional.one_hot(tokens, 7).float())
    decay = memory.decay_logit.sigmoid()
    read = torch.zeros_like(x)
    for t in range(6):
        for s in range(t):
            score = (memory.queries.weight * x[0, t]) @ (memory.keys.weight * x[0, s])
            read[0, t] += decay ** (t - s - 1) * score * x[0, s]
    x = x + model.steps[0].parts[0].gain * memory.gain * read
    pushed = rms(x) @ graph.word_maps(7)["write"].rows(0, 7) / graph.gain + graph.bias
    x = x + model.steps[0].parts[1].gain * graph.gain * torch.nn.functional.gelu(pushed)
    expected = 30 * torch.tanh(model.head.gamma * rms(x) / 30)
    torch.testing.assert_close(model.eval()(tokens).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("mode", "repeats"), [("faithful", 64.0), ("repaired", 1.0)])
def test_a_first_step_re_adds_words_that_repeat_and_them_alone(mode, repeats):
    model = Graph(64, 9, num_steps=1, mode=mode).eval()
    tokens = torch.tensor([[5, 6, 7, 5, 8]])
    start = model.start(tokens)
    change = model.steps[0].parts[0](start) - start
    assert change[0, [0, 1, 2, 4]].abs().max() == 0
    decay = torch.tensor(3.0).sigmoid()
    expected = torch.zeros(64)
    expected[5] = 0.1 * repeats * decay**2 * 8  # scores of 8 * 8, or of 1; values of 8
    torch.testing.assert_close(change[0, 3].float(), expected, rtol=0.01, atol=1e-6)
