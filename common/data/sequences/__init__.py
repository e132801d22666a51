"""Made-up sequences whose next token can be told only by looking back: repeats, recall, copying.

Every task is a frozen dataclass of settings. `GeneratedSequences` offers its examples: 'tokens'
(context + 1,) int32 and 'scored' (context,) bool, where position i sees tokens 0 to i and predicts
tokens[i + 1]. Only predictions that the context determines are scored, so the best loss is 0 and
the best accuracy 1.
"""

from common.data.sequences.copying import Copying
from common.data.sequences.recall import AssociativeRecall
from common.data.sequences.repeats import RepeatedSequences
from common.data.sequences.source import GeneratedSequences, SequenceTask

__all__ = [
    "AssociativeRecall",
    "Copying",
    "GeneratedSequences",
    "RepeatedSequences",
    "SequenceTask",
]
