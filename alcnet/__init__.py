"""ALCNet: an encoder whose attention maps are read by a convolutional net."""

from alcnet.dropout import Dropout
from alcnet.encoder import Embeddings, Encoder, EncoderLayer, EncoderOutput, Pooler
from alcnet.hf_weights import load_encoder

__all__ = [
    "Dropout",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "EncoderOutput",
    "Pooler",
    "load_encoder",
]
