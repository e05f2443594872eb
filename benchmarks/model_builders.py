"""The models of real_models.py: other packages' own classes, with random weights and inputs.

A size given here is smaller than the package's default, or has none. Packages are imported when a
model is built, by import_module: mypy need not find them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn


def mean_squares(model: Callable[..., Any], *inputs: Tensor) -> list[Tensor]:
    """The sum of the mean squares of the model's outputs, then those."""
    found = model(*inputs)
    outputs = [found] if isinstance(found, Tensor) else [y for y in found if isinstance(y, Tensor)]
    return [torch.stack([y.square().mean() for y in outputs]).sum(), *outputs]


@dataclass(frozen=True)
class Example:
    """A model and a batch for it."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    forward: Callable[..., list[Tensor]] = mean_squares
    """Of a model and the inputs: the loss, a scalar, and the outputs."""


def demucs() -> Example:
    """Stacked bidirectional LSTMs."""
    model = import_module("demucs.demucs").Demucs(["voice", "rest"], channels=16, lstm_layers=2)
    return Example(model, (torch.randn(2, 2, 22050),))


def forecasting_tft() -> Example:
    """An encoder whose final states start a decoder."""
    package = import_module("pytorch_forecasting")
    series = {"time": range(100), "series": "a", "value": torch.rand(100).numpy()}
    data = package.TimeSeriesDataSet(
        import_module("pandas").DataFrame(series),
        time_idx="time",
        target="value",
        group_ids=["series"],
        max_encoder_length=60,
        max_prediction_length=20,
        time_varying_unknown_reals=["value"],
    )
    batch, target = next(iter(data.to_dataloader(batch_size=16, shuffle=False)))

    def forward(model: Any, *inputs: Tensor) -> list[Tensor]:
        y = model(dict(zip(batch, inputs, strict=True))).prediction
        return [model.loss(y, target), y]

    model = package.TemporalFusionTransformer.from_dataset(data)
    return Example(model, tuple(batch.values()), forward)


def gluonts_deepar() -> Example:
    """Two layers, batch first; the outputs are the package's own losses."""
    model = import_module("gluonts.torch.model.deepar").DeepARModel(
        freq="D", context_length=60, prediction_length=20, cardinality=[10]
    )
    N, past, future = 32, model._past_length, 20
    static = torch.randint(10, (N, 1)), torch.randn(N, 1)
    seen = torch.randn(N, past, 1), torch.rand(N, past), torch.ones(N, past)
    to_come = torch.randn(N, future, 1), torch.rand(N, future), torch.ones(N, future)
    inputs = (*static, *seen, *to_come)
    return Example(model, inputs, lambda model, *inputs: mean_squares(model.loss, *inputs))


def open_unmix() -> Example:
    """Three bidirectional layers with dropout between them; the package's own sizes."""
    model = import_module("openunmix.model").OpenUnmix(2049, max_bin=1487)
    return Example(model, (torch.rand(4, 2, 2049, 100),))


def speechbrain_crdnn() -> Example:
    """Convolutions, two bidirectional GRU layers with dropout between them, linear layers."""
    model = import_module("speechbrain.lobes.models.CRDNN").CRDNN(
        input_size=40,
        cnn_channels=[16, 32],
        rnn_class=import_module("speechbrain.nnet.RNN").GRU,
        rnn_layers=2,
        rnn_neurons=128,
    )
    return Example(model, (torch.randn(4, 100, 40),))


def speechbrain_decoder() -> Example:
    """Two GRU cells in a Python loop with attention."""
    model = import_module("speechbrain.nnet.RNN").AttentionalRNNDecoder(
        "gru", "content", 256, 128, 2, 320, 128, dropout=0.1
    )
    inputs = torch.randn(8, 20, 128), torch.randn(8, 60, 320), torch.linspace(0.5, 1, 8)
    return Example(model, inputs)


def stanza_lemmatizer() -> Example:
    """A packed bidirectional encoder that is given states, and an LSTM cell with attention."""
    sizes = {"vocab_size": 60, "emb_dim": 50, "hidden_dim": 200, "num_layers": 1, "max_dec_len": 50}
    options = {"emb_dropout": 0.5, "dropout": 0.5, "attn_type": "soft"}
    model = import_module("stanza.models.common.seq2seq_model").Seq2SeqModel({**sizes, **options})
    padding = torch.arange(15) >= torch.linspace(15, 5, 20).long().unsqueeze(1)
    source = torch.randint(4, 60, (20, 15)).masked_fill(padding, 0)
    return Example(model, (source, padding, torch.randint(4, 60, (20, 12))))


def torchaudio_deepspeech() -> Example:
    """A bidirectional ReLU RNN."""
    model = import_module("torchaudio.models").DeepSpeech(128, n_hidden=256)
    return Example(model, (torch.randn(4, 1, 50, 128),))


def torchaudio_tacotron2() -> Example:
    """A packed bidirectional encoder, two LSTM cells of 1024 in a loop; the package's own sizes."""
    tokens, lengths = torch.randint(148, (4, 30)), torch.tensor([30, 25, 20, 12])
    inputs = tokens, lengths, torch.randn(4, 80, 25), torch.tensor([25, 25, 20, 18])
    return Example(import_module("torchaudio.models").Tacotron2(), inputs)


def torchaudio_wavernn() -> Example:
    """Two GRUs that are given states, 400 steps; the package's own sizes."""
    model = import_module("torchaudio.models").WaveRNN([5, 5, 8], n_classes=256, hop_length=200)
    return Example(model, (torch.randn(2, 1, 400), torch.randn(2, 1, 128, 6)))


def torchrl_policy(resets: bool = False) -> Example:
    """Two LSTM layers that are given states."""
    nodes: Any = import_module("tensordict.nn")
    modules, tensordict = import_module("torchrl.modules"), import_module("tensordict")
    lstm = modules.LSTMModule(
        32, 128, num_layers=2, in_key="x", out_key="y", default_recurrent_mode=True
    )
    head = nodes.TensorDictModule(modules.MLP(128, 4, num_cells=[64]), ["y"], ["action"])
    starts = torch.zeros(16, 50, 1, dtype=torch.bool)
    starts[:, 0] = True
    starts[::2, 20] = resets

    def forward(model: nn.Module, x: Tensor, starts: Tensor) -> list[Tensor]:
        found = model(tensordict.TensorDict({"x": x, "is_init": starts}, starts.shape[:2]))
        action = found["action"]
        return [action.square().mean(), action, found["next", "recurrent_state_c"]]

    model = nodes.TensorDictSequential(lstm, head)
    return Example(model, (torch.randn(16, 50, 32), starts), forward)


def torchrl_policy_resets() -> Example:
    """The same with episodes that begin inside the batch."""
    return torchrl_policy(resets=True)


BUILDERS: dict[Callable[[], Example], str] = {
    demucs: "demucs",
    forecasting_tft: "pytorch-forecasting",
    gluonts_deepar: "gluonts",
    open_unmix: "openunmix",
    speechbrain_crdnn: "speechbrain",
    speechbrain_decoder: "speechbrain",
    stanza_lemmatizer: "stanza",
    torchaudio_deepspeech: "torchaudio",
    torchaudio_tacotron2: "torchaudio",
    torchaudio_wavernn: "torchaudio",
    torchrl_policy: "torchrl",
    torchrl_policy_resets: "torchrl",
}
"""What builds a model and a batch, and the package that the model comes from."""
