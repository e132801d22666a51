"""What a Pathfinder image is made of, in the units of the published 300 x 300 images."""

import dataclasses
import math

import numpy as np

from common.errors import UserError

MARKER_DISTANCES = ("matched", "public")


@dataclasses.dataclass(frozen=True)
class PathfinderSettings:
    """Settings of one family of Pathfinder images.

    The geometry is that of the public generator (Linsley et al. 2018, "Learning long-range spatial
    dependencies with horizontal gated recurrent units"; drewlinsley/pathfinder). Lengths are in
    reference pixels: a square `window` of the reference plane is drawn onto `image_size` pixels,
    so the picture is scaled in its geometry and never resized.

    Attributes:
        image_size: side of the image, pixels.
        contour_length: paddles in each of the two target contours.
        window: side of the drawn part of the plane; 300 is the published one.
        padding: border, on each side of the window, that no paddle may enter.
        distractors: number of distractor contours.
        distractor_length: paddles in each of them; None is a third of `contour_length`.
        marker_distance: 'matched' gives both labels one distribution of the distance between the
            two markers; 'public' keeps the public statistics, in which it betrays the label.
        seed_distance: distance between the tails of the two targets.
        paddle_length: length of a paddle.
        paddle_thickness: width of a paddle.
        margin: half the gap between consecutive paddles of a contour.
        marker_radius: radius of the two discs.
        continuity: turns have density cos^2(continuity * turn) up to 90 degrees / continuity.
    """

    image_size: int = 64
    contour_length: int = 6
    window: float = 300.0
    padding: float = 22.0
    distractors: int = 15
    distractor_length: int | None = None
    marker_distance: str = "matched"
    seed_distance: float = 27.0
    paddle_length: float = 5.0
    paddle_thickness: float = 2.0
    margin: float = 3.0
    marker_radius: float = 5.0
    continuity: float = 1.8

    def __post_init__(self) -> None:
        if self.distractor_length is None:
            object.__setattr__(self, "distractor_length", max(1, self.contour_length // 3))
        self._require_choice()
        for name in ("image_size", "contour_length", "distractor_length"):
            self._require(name, int, 1)
        self._require("distractors", int, 0)
        for name in ("padding", "margin"):
            self._require(name, float, 0)
        for name in ("window", "seed_distance", "paddle_length", "paddle_thickness"):
            self._require(name, float, 0, exclusive=True)
        for name in ("marker_radius", "continuity"):
            self._require(name, float, 0, exclusive=True)
        self._require_room()

    def _require_choice(self) -> None:
        if (given := self.marker_distance) not in MARKER_DISTANCES:
            raise UserError(f"data.marker_distance is {given!r}; choose one of {MARKER_DISTANCES}")

    def _require(self, name: str, kind: type, least: float, exclusive: bool = False) -> None:
        value = getattr(self, name)
        kinds = (int, np.integer) if kind is int else (int, float, np.number)
        wanted = f"{'an integer' if kind is int else 'a number'}, "
        wanted += f"greater than {least}" if exclusive else f"{least} or more"
        numeric = isinstance(value, kinds) and not isinstance(value, bool)
        if not numeric or not least <= value < math.inf or (exclusive and value == least):
            raise UserError(f"data.{name} is {value!r}; expected {wanted}")

    def _require_room(self) -> None:
        """Checks that contours fit the window, and that matched distances can be reached."""
        step = self.paddle_length + 2 * self.margin
        reach = self.contour_length * step - 2 * self.margin
        needed = reach + 2 * self.margin
        if self.window - 2 * self.padding < needed:
            raise UserError(
                f"data.window is {self.window:g} with padding {self.padding:g}: a contour of "
                f"{self.contour_length} paddles needs {needed:g} between the borders"
            )
        farthest = 1.8 * reach  # a triangle of two bent contours and the seed distance must close
        if self.seed_distance > farthest:
            raise UserError(
                f"data.seed_distance is {self.seed_distance:g}; expected at most {farthest:g} "
                f"for contours of {self.contour_length} paddles"
            )

    @property
    def clearance(self) -> float:
        """Smallest distance between the centre lines of paddles that do not follow each other."""
        return 2 * self.margin + self.paddle_thickness
