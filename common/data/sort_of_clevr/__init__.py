"""Sort-of-CLEVR: six shapes of six colours on one picture, and questions about them.

Source: Santoro et al. 2017, "A simple neural network module for relational reasoning", section 4.3.
A question is three words and its answer the next one: 'nearest to red circle'. Questions about one
object are non-relational, those about several relational:

| type | question | answers |
|---|---|---|
| shape | shape of COLOUR | circle, square |
| side | side of COLOUR | left, right |
| level | level of COLOUR | top, bottom |
| nearest | nearest to COLOUR: the shape of that object | circle, square |
| furthest | furthest from COLOUR: the shape of that object | circle, square |
| number | number like COLOUR: the objects of its shape, itself among them | 1 to 6 |
"""

from common.data.sort_of_clevr.floors import Floors, measure_floors
from common.data.sort_of_clevr.questions import (
    BLANK,
    IMAGE,
    NON_RELATIONAL,
    RELATIONAL,
    TYPES,
    WORDS,
    decode,
)
from common.data.sort_of_clevr.scenes import COLOURS, SHAPES, Scenes, SceneSettings
from common.data.sort_of_clevr.source import SortOfClevr

__all__ = [
    "BLANK",
    "COLOURS",
    "IMAGE",
    "NON_RELATIONAL",
    "RELATIONAL",
    "SHAPES",
    "TYPES",
    "WORDS",
    "Floors",
    "SceneSettings",
    "Scenes",
    "SortOfClevr",
    "decode",
    "measure_floors",
]
