"""Scenes of coloured circles and squares, and their pictures.

A centre is the corner between pixels: an object of radius r at (y, x) lies within rows y - r to
y + r - 1, so that both halves of a picture have as many places for it.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from common.array_types import Int, UInt8
from common.data.checks import require_integer
from common.data.sequences.draws import below
from common.errors import UserError

SHAPES = ("circle", "square")
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 160, 0),
    "blue": (0, 0, 255),
    "orange": (255, 140, 0),
    "grey": (128, 128, 128),
    "yellow": (255, 255, 0),
}
"""Colours of the objects; each picture has one object of each."""

COUNT = len(COLOURS)
BACKGROUND = 255
CANDIDATES = 64
"""Places that are drawn for each object; the first that is free is taken."""


class Scenes(NamedTuple):
    """Several scenes; objects in the order of `COLOURS`.

    Attributes:
        centres: rows and columns, pixels.
        shapes: index into `SHAPES`.
    """

    centres: Int[np.ndarray, "b 6 2"]
    shapes: Int[np.ndarray, "b 6"]


@dataclasses.dataclass(frozen=True)
class SceneSettings:
    """How scenes are drawn: shapes independent and even, places uniform among the free ones.

    Squares around two objects share no pixel, and no object is equally far from two others.
    The paper's circles of radius 5 stand on 75 x 75 pixels too; there squares may overlap at a
    corner, and ties go to one of them.

    Attributes:
        image_size: height and width, pixels; odd, so that no object lies in the middle.
        radius: of a circle and half the side of a square, pixels.
    """

    image_size: int = 75
    radius: int = 5

    def __post_init__(self) -> None:
        require_integer("radius", self.radius, 2)
        require_integer("image_size", self.image_size, 2 * self.radius)
        if self.image_size % 2 == 0:
            raise UserError(
                f"data.image_size is {self.image_size}; expected an odd number, so that no object "
                "lies in the middle"
            )
        taken = (COUNT - 1) * (4 * self.radius - 1) ** 2
        if 2 * taken > self.places**2:
            least = (2 * self.radius - 1 + int(np.ceil(np.sqrt(2 * taken)))) // 2 * 2 + 1
            raise UserError(
                f"data.image_size is {self.image_size}; {COUNT} objects of radius {self.radius} "
                f"want {least} or more"
            )

    @property
    def places(self) -> int:
        """Number of rows, and of columns, that a centre may have."""
        return self.image_size - 2 * self.radius + 1

    @property
    def words(self) -> int:
        """Random words of a scene: shapes, then candidates of every object."""
        return COUNT + COUNT * CANDIDATES

    def build(self, words: np.ndarray) -> Scenes:
        """Returns the scenes made of uniform random words (b, words) uint64."""
        shapes = below(words[:, :COUNT], len(SHAPES))
        cells = below(words[:, COUNT:], self.places**2).reshape(-1, COUNT, CANDIDATES)
        candidates = self.radius + np.stack([cells // self.places, cells % self.places], -1)
        rows = np.arange(len(words))
        centres = np.empty((len(words), COUNT, 2), np.int64)
        for number in range(COUNT):
            placed, tried = centres[:, None, :number], candidates[:, number]
            apart = np.abs(tried[:, :, None] - placed).max(-1)
            free = (apart >= 2 * self.radius).all(-1)
            free &= ~_ties(centres[:, :number], tried)
            if not free.any(1).all():
                raise UserError(f"data.radius is {self.radius}; there is no room for the objects")
            centres[:, number] = tried[rows, free.argmax(1)]
        return Scenes(centres, shapes)

    def draw(self, scenes: Scenes) -> UInt8[np.ndarray, "b h w 3"]:
        """Returns the pictures of scenes, on white."""
        batch, side = len(scenes.shapes), np.arange(-self.radius, self.radius)
        images = np.full((batch, self.image_size, self.image_size, 3), BACKGROUND, np.uint8)
        disc = ((side[:, None] + 0.5) ** 2 + (side + 0.5) ** 2) <= self.radius**2
        stamps = np.stack([disc, np.ones_like(disc)])
        palette = np.array(list(COLOURS.values()), np.uint8)
        rows = np.arange(batch)[:, None, None]
        for number in range(COUNT):
            y, x = (scenes.centres[:, number, axis, None, None] for axis in (0, 1))
            where = (rows, y + side[:, None], x + side)
            inside = stamps[scenes.shapes[:, number]][..., None]
            images[where] = np.where(inside, palette[number], images[where])
        return images


def squared_distances(centres: Int[np.ndarray, "*b k 2"]) -> Int[np.ndarray, "*b k k"]:
    """Returns the squared distances between all objects, pixels squared."""
    return ((centres[..., :, None, :] - centres[..., None, :, :]) ** 2).sum(-1)


def _ties(placed: np.ndarray, tried: np.ndarray) -> np.ndarray:
    """Tells of which places (b, candidates) an object would be equally far from two others."""
    own = ((tried[:, :, None] - placed[:, None]) ** 2).sum(-1)
    known = squared_distances(placed)
    met = (own[..., None] == known[:, None]).any((-2, -1))  # one placed, the place and another
    first, second = np.triu_indices(placed.shape[1], 1)
    return met | (own[..., first] == own[..., second]).any(-1)
