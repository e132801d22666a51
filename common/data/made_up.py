"""Made-up articles in the format of WikiText, for tests and trials that need no file."""

from collections.abc import Iterator, Sequence

import numpy as np

SYLLABLES = "ba del for ga hin jor ka lem mo nar os pel qui ru sto tan ul ver wen zi".split()
ADJECTIVES = "old small narrow northern famous quiet wooden heavy early common".split()
NOUNS = "river bridge song ship village tower garden engine school forest".split()
VERBS = "crosses follows names joins carries leaves finds keeps rebuilds describes".split()
PLACES = "coast border hill harbour valley market station lake road castle".split()
TEMPLATES = (
    "{name} is the {adjective} {noun} near the {place} of {other} .",
    "In {year} , the {noun} of {name} {verb} the {adjective} {noun2} .",
    "The {adjective} {noun} {verb} {name} and the {place} .",
    "{other} {verb} the {noun} , but {name} {verb2} it in {year} .",
    "Many say that {name} {verb} no {adjective} {noun} .",
)


def generate_text(articles: int = 200, seed: int = 0) -> str:
    """Returns articles of about 465 bytes each, the same for the same arguments on any machine.

    An article is a heading and two paragraphs of template sentences about two names, made of three
    syllables each, that other articles share only by chance: after its first mention a
    name can only be copied from the context, and all else is in the templates.

    Args:
        articles: how many, 1 or more.
        seed: any integer; other seeds give other articles.
    """
    key = np.array([seed % 2**64, 0], np.uint64)
    draw = _Choices(np.random.Philox(key=key, counter=0))
    return "".join(_article(draw) for _ in range(articles))


class _Choices:
    """Draws from lists, with words of a counter-based generator."""

    def __init__(self, words: np.random.Philox):
        self._words = words

    def __call__(self, options: Sequence[str]) -> str:
        return options[int(self._words.random_raw()) % len(options)]


def _article(draw: _Choices) -> str:
    name, other = (_name(draw) for _ in range(2))
    paragraphs = [" ".join(_sentences(draw, name, other, 4)) for _ in range(2)]
    return f" = {name} = \n \n" + "".join(f" {paragraph} \n" for paragraph in paragraphs) + " \n"


def _name(draw: _Choices) -> str:
    return "".join(draw(SYLLABLES) for _ in range(3)).capitalize()


def _sentences(draw: _Choices, name: str, other: str, count: int) -> Iterator[str]:
    for _ in range(count):
        yield draw(TEMPLATES).format(
            name=name,
            other=other,
            adjective=draw(ADJECTIVES),
            noun=draw(NOUNS),
            noun2=draw(NOUNS),
            verb=draw(VERBS),
            verb2=draw(VERBS),
            place=draw(PLACES),
            year=1800 + int(draw("0123456789") + draw("0123456789")),
        )
