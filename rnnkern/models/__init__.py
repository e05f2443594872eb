"""Parts that systems of recurrent layers are built from; `examples/` puts them together.

Sequences are batch first, [N, T]. A *decoder* here is anything that maps tokens [N, T] and a state
to logits [N, T, V] and the next state, where a state is a tuple of tensors whose rows (dimension 0)
are the N sequences: `generate`, `beam_search` and `log_probability` work on all of them.

`rnnkern.models.training` and `rnnkern.models.language` run an example from the command line; they
need the packages of requirements-examples.txt and are imported by name.
"""

from rnnkern.models.attention import AdditiveAttention, GeneralAttention
from rnnkern.models.decoder import BahdanauDecoder, Decoder, State
from rnnkern.models.encoder import Encoder
from rnnkern.models.search import beam_search, generate, log_probability
from rnnkern.models.vocabulary import Vocabulary, pad, sentences

__all__ = [
    "AdditiveAttention",
    "BahdanauDecoder",
    "Decoder",
    "Encoder",
    "GeneralAttention",
    "State",
    "Vocabulary",
    "beam_search",
    "generate",
    "log_probability",
    "pad",
    "sentences",
]
