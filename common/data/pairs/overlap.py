"""What the words of two sentences give away without any reading: features for a baseline."""

import re

import numpy as np

from common.data.pairs.examples import Pairs

_WORD = re.compile(r"\w+(?:'\w+)?")
_NEGATION = {"no", "not", "never", "none", "nobody", "nothing", "cannot", "without"}


def overlap_features(pairs: Pairs) -> np.ndarray:
    """Returns the features (n, 7), float64.

    In order: the share of the words of sentence 2 that are in sentence 1; words in both over words
    in any; log of 1 + the number of words of 2 not in 1; the share of the word pairs of 2 that
    are in 1; the shares of the names and of the numbers of 2 that are not in 1; whether one
    sentence negates and the other does not.

    Words are letters and digits, case ignored; a name is a capitalised word of sentence 2 but its
    first one. A share of nothing is 0.
    """
    rows = [_features(a, b) for a, b in zip(pairs.first, pairs.second, strict=True)]
    return np.array(rows, np.float64)


def _features(first: str, second: str) -> list[float]:
    raw = _WORD.findall(second)
    a, b = _words(first), _words(second)
    in_a, in_b = set(a), set(b)
    names = {word.lower() for word in raw[1:] if word[0].isupper()}
    numbers = {word for word in in_b if word[0].isdigit()}
    pairs_a, pairs_b = set(zip(a, a[1:], strict=False)), set(zip(b, b[1:], strict=False))
    negated = [any(w in _NEGATION or w.endswith("n't") for w in words) for words in (in_a, in_b)]
    return [
        _share(in_b & in_a, in_b),
        _share(in_b & in_a, in_b | in_a),
        float(np.log1p(len(in_b - in_a))),
        _share(pairs_b & pairs_a, pairs_b),
        _share(names - in_a, names),
        _share(numbers - in_a, numbers),
        float(negated[0] != negated[1]),
    ]


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _share(part: set, whole: set) -> float:
    return len(part) / len(whole) if whole else 0.0
