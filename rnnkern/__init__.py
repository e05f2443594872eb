"""rnnkern: RNN, LSTM and GRU layers for PyTorch on hand-written kernels.

Use `rnnkern.LSTM` where `torch.nn.LSTM` stood, or `rnnkern.replace_rnn_(model)` for every recurrent
module of a model at once.
"""

import torch

__version__ = "0.1.0"

try:
    from rnnkern import _C
except ImportError as error:
    raise ImportError(
        f"rnnkern's compiled extension rnnkern._C could not be imported: {error}\n"
        "Build it with `pip install -v --no-build-isolation .` in a checkout of rnnkern. A build "
        "serves one version of Python and torch: if one has changed (torch is now "
        f"{torch.__version__}), build again."
    ) from error

from rnnkern import functional, reference
from rnnkern._C import backends
from rnnkern.compare import Comparison, compare
from rnnkern.convert import from_torch, replace_rnn_, to_torch
from rnnkern.explain import explain, gpus
from rnnkern.modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from rnnkern.stream import Stream

cuda_version = _C.cuda_version()  # like torch.version.cuda: None in a build without CUDA

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Comparison",
    "GRUCell",
    "LSTMCell",
    "RNNCell",
    "Stream",
    "backends",
    "compare",
    "cuda_version",
    "explain",
    "from_torch",
    "functional",
    "gpus",
    "reference",
    "replace_rnn_",
    "to_torch",
]
