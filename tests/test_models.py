"""Claim: the parts of rnnkern.models compute what their docstrings say."""

import itertools
import math

import pytest
import torch
from torch import nn

import rnnkern
from rnnkern.models import (
    AdditiveAttention,
    BahdanauDecoder,
    Decoder,
    Encoder,
    GeneralAttention,
    Vocabulary,
    beam_search,
    generate,
    log_probability,
    pad,
)
from rnnkern.models.search import choose

V, E, H, M = 7, 5, 6, 8
LENGTHS = torch.tensor([4, 1, 3])


def attentions():
    return {"general": GeneralAttention(H, M), "additive": AdditiveAttention(H, M, 9)}


def decoder(kind):
    """One of each kind of decoder, and a state of three rows to begin with; float64."""
    torch.manual_seed(1)
    embed = nn.Embedding(V, E)
    if kind == "bahdanau":
        model = BahdanauDecoder(embed, H, AdditiveAttention(H, M, 9))
    else:
        rnn = getattr(rnnkern, kind.split("-")[0])(E, H, 2, batch_first=True)
        model = Decoder(embed, rnn, GeneralAttention(H, M) if "luong" in kind else None)
    model.double()
    h = torch.randn(3, H, dtype=torch.float64)
    memory = torch.randn(3, 4, M, dtype=torch.float64)
    return model, model.start(h, (memory, LENGTHS))


KINDS = ["LSTM", "GRU", "LSTM-luong", "GRU-luong", "bahdanau"]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_encoder_is_the_layer_on_each_row_alone(name, bidirectional):
    rnn = getattr(rnnkern, name)(E, H, 2, batch_first=True, bidirectional=bidirectional)
    encoder = Encoder(nn.Embedding(V, E), rnn)
    tokens = torch.randint(V, (3, 5))
    memory, summary = encoder(tokens, LENGTHS)
    assert memory.shape == (3, 5, encoder.size)
    for row, length in enumerate(LENGTHS):
        y, final = rnn(encoder.embed(tokens[row : row + 1, :length]))
        h = final[0] if name == "LSTM" else final
        torch.testing.assert_close(memory[row, :length], y[0])
        assert memory[row, length:].count_nonzero() == 0
        directions = 2 if bidirectional else 1
        torch.testing.assert_close(summary[row], h[-directions:, 0].flatten())


@pytest.mark.parametrize("kind", ["general", "additive"])
def test_attention_looks_at_each_row_alone(kind):
    attention = attentions()[kind]
    query, memory = torch.randn(3, 2, H), torch.randn(3, 4, M)
    context, weights = attention(query, attention.keys(memory), memory, LENGTHS)
    assert context.shape == (3, 2, M)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2))
    for row, length in enumerate(LENGTHS):
        assert weights[row, :, length:].count_nonzero() == 0
        alone = memory[row : row + 1, :length]
        keys = attention.keys(alone)
        want, _ = attention(query[row : row + 1], keys, alone, LENGTHS[row : row + 1])
        torch.testing.assert_close(context[row], want[0])


def test_scores_are_those_of_the_papers():
    query, memory = torch.randn(H), torch.randn(M)
    general, additive = attentions().values()
    q, m = query.view(1, 1, H), memory.view(1, 1, M)
    W = general.W.weight
    torch.testing.assert_close(general.scores(q, general.keys(m)).squeeze(), query @ (W @ memory))
    inside = additive.W.weight @ query + additive.W.bias + additive.U.weight @ memory
    want = additive.v.weight[0] @ torch.tanh(inside)
    torch.testing.assert_close(additive.scores(q, additive.keys(m)).squeeze(), want)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_step_by_step_is_decoding_at_once(kind):
    model, state = decoder(kind)
    tokens = torch.randint(V, (3, 5))
    whole, last = model(tokens, state)
    assert whole.shape == (3, 5, V)
    for step in range(5):
        logits, state = model(tokens[:, step : step + 1], state)
        torch.testing.assert_close(logits[:, 0], whole[:, step])
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_learns_by_all_its_parameters(kind):
    model, _ = decoder(kind)
    h = torch.randn(3, H, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(3, 4, M, dtype=torch.float64, requires_grad=True)
    logits, _ = model(torch.randint(V, (3, 5)), model.start(h, (memory, LENGTHS)))
    logits.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and g.count_nonzero() > 0 for g in gradients.values())
    assert h.grad.count_nonzero() > 0
    if "-" in kind or kind == "bahdanau":
        assert memory.grad[1, 1:].count_nonzero() == 0
        assert memory.grad[0].count_nonzero() > 0


def test_attention_without_a_memory():
    model, _ = decoder("GRU-luong")
    with pytest.raises(ValueError, match="memory"):
        model.start(torch.zeros(3, H, dtype=torch.float64))
    with pytest.raises(ValueError, match="state"):
        model(torch.zeros(3, 1, dtype=torch.int64))


def test_tied_weights_are_one_parameter():
    embed = nn.Embedding(V, H)
    model = Decoder(embed, rnnkern.GRU(H, H, batch_first=True), tied=True)
    assert model.head.weight is embed.weight
    with pytest.raises(ValueError, match="hidden_size = embedding_dim, got 6 and 5"):
        Decoder(nn.Embedding(V, E), rnnkern.GRU(E, H, batch_first=True), tied=True)


@pytest.mark.parametrize(
    "rnn",
    [
        rnnkern.GRU(E, H),
        rnnkern.GRU(E, H, batch_first=True, bidirectional=True),
        rnnkern.RNN(E, H, batch_first=True),
    ],
    ids=str,
)
def test_layers_that_a_decoder_cannot_use(rnn):
    with pytest.raises(ValueError, match=r"unidirectional LSTM or GRU with batch_first=True, got "):
        Decoder(nn.Embedding(V, E), rnn)


FIRST = torch.full((3,), Vocabulary.BOS)


def all_sequences(length):
    """Every sequence that ends in its first EOS, or is `length` tokens without one."""
    for n in range(1, length + 1):
        for tokens in itertools.product(range(V), repeat=n):
            inside, last = tokens[:-1], tokens[-1]
            if Vocabulary.EOS not in inside and (last == Vocabulary.EOS or n == length):
                yield list(tokens)


def row_of(state, row):
    return tuple(s[row : row + 1] for s in state)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_beam_finds_the_best_of_all_sequences(kind, alpha):
    model, state = decoder(kind)
    model.head.weight.data *= 8  # otherwise all sequences are about as likely
    found = beam_search(model, state, FIRST, 3, width=V**3, alpha=alpha)
    for row in range(3):
        scores = {}
        for sequence in all_sequences(3):
            tokens, lengths = pad([[Vocabulary.BOS, *sequence]])
            log = log_probability(model, row_of(state, row), tokens, lengths)
            scores[tuple(sequence)] = log.item() / len(sequence) ** alpha
        best = max(scores, key=scores.__getitem__)
        assert tuple(found[row, : len(best)].tolist()) == best
        assert set(found[row, len(best) :].tolist()) <= {Vocabulary.EOS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_beam_of_one_is_greedy(kind):
    model, state = decoder(kind)
    greedy = generate(model, state, FIRST, 9)
    beam = beam_search(model, state, FIRST, 9, width=1)
    assert torch.equal(greedy, beam)
    tokens = torch.cat([FIRST[:, None], greedy], 1)
    logits, _ = model(tokens[:, :-1], state)
    ended = (greedy == Vocabulary.EOS).cumsum(1) > 1
    assert torch.equal(logits.argmax(-1)[~ended], greedy[~ended])


def test_probabilities_of_all_sequences_sum_to_one():
    model, state = decoder("LSTM")
    tokens, lengths = pad([[Vocabulary.BOS, *sequence] for sequence in all_sequences(3)])
    state = tuple(s[:1].expand(len(tokens), -1, -1) for s in state)
    assert log_probability(model, state, tokens, lengths).exp().sum() == pytest.approx(1)


def test_samples_follow_the_distribution():
    """Of 20,000 draws, whose frequencies lie within five standard deviations."""
    logits = torch.tensor([0.3, -1.0, 2.0, 0.5])
    for temperature, top_k in ((1.0, None), (0.5, None), (1.0, 2)):
        p = (logits / temperature).softmax(0)
        if top_k:
            p = torch.where(p >= p.topk(top_k)[0][-1], p, 0)
            p /= p.sum()
        drawn = choose(logits.expand(20_000, -1), temperature, top_k).bincount(minlength=4) / 20_000
        assert ((drawn - p).abs() <= 5 * (p * (1 - p) / 20_000).sqrt()).all()


def test_a_vanishing_temperature_takes_the_likeliest():
    logits = torch.randn(50, V)
    assert torch.equal(choose(logits, 1e-300), choose(logits))


def test_generate_ends_rows_by_themselves():
    def countdown(tokens, state):
        """Row n says EOS after n tokens that are not."""
        (left,) = state
        logits = torch.zeros(len(tokens), 1, V)
        logits[torch.arange(len(tokens)), 0, torch.where(left > 0, 4, Vocabulary.EOS)] = 9
        return logits, (left - 1,)

    found = generate(countdown, (torch.tensor([2, 0, 1]),), FIRST, 10)
    end = Vocabulary.EOS
    assert found.tolist() == [[4, 4, end], [end, end, end], [4, end, end]]
    assert generate(countdown, (torch.tensor([2, 0, 1]),), FIRST, 0).shape == (3, 0)


def test_vocabulary():
    vocabulary = Vocabulary.build([["b", "a"], ["c", "b", "<UNK>"], ["c", "b"]], 2)
    assert vocabulary.words[4:] == ["b", "c"]
    numbers = vocabulary.encode(["c", "a", "b"], ends=True)
    assert numbers == [Vocabulary.BOS, 5, Vocabulary.UNK, 4, Vocabulary.EOS]
    assert vocabulary.decode([*numbers, 4]) == ["c", "<UNK>", "b"]
    assert "b" in vocabulary
    assert "a" not in vocabulary
    with pytest.raises(ValueError, match=r"at least 2 words, got \['a'\]"):
        Vocabulary.build(["aaa"])
    with pytest.raises(ValueError, match=r"twice: \['a'\]"):
        Vocabulary(["a", "b", "a"])


def test_pad():
    tokens, lengths = pad([[5, 6], [], [7, 8, 9]])
    assert tokens.tolist() == [[5, 6, 0], [0, 0, 0], [7, 8, 9]]
    assert lengths.tolist() == [2, 0, 3]


def test_log_probability_by_hand():
    def uniform(tokens, state):
        return torch.zeros(*tokens.shape, V), ()

    tokens, lengths = pad([[1, 4, 5, 2], [1, 2]])
    found = log_probability(uniform, None, tokens, lengths)
    torch.testing.assert_close(found, torch.tensor([-3 * math.log(V), -math.log(V)]))
