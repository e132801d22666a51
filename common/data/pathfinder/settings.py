"""What a Pathfinder image is made of, in the units of the published 300 x 300 images."""

import dataclasses
import math

import numpy as np

from common.errors import UserError

LAYOUTS = ("matched", "reference")
WHOLE = ("window", "padding", "seed_distance", "paddle_length", "margin")
WHOLE += ("paddle_thickness", "marker_radius")
REFERENCE_REACH = 20  # half the double-size canvas of `stamps`


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
        distractor_length: paddles in each of them; 0 is a third of `contour_length`, at least 1.
        layout: 'matched' makes pairs of images that differ only in which of two equally likely
            heads the second marker stands on; 'reference' follows the public generator, in which
            the distance between the markers betrays the label.
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
    distractor_length: int = 0
    layout: str = "matched"
    seed_distance: float = 27.0
    paddle_length: float = 5.0
    paddle_thickness: float = 2.0
    margin: float = 3.0
    marker_radius: float = 5.0
    continuity: float = 1.8

    def __post_init__(self) -> None:
        self._require("distractor_length", int, 0)
        self._require("contour_length", int, 1)
        if self.distractor_length == 0:
            object.__setattr__(self, "distractor_length", max(1, self.contour_length // 3))
        self._require_choice()
        self._require("image_size", int, 1)
        self._require("distractors", int, 0)
        for name in ("padding", "margin"):
            self._require(name, float, 0)
        for name in ("window", "seed_distance", "paddle_length", "paddle_thickness"):
            self._require(name, float, 0, exclusive=True)
        for name in ("marker_radius", "continuity"):
            self._require(name, float, 0, exclusive=True)
        if self.layout == "reference":
            self._require_whole()
        self._require_room()

    def _require_choice(self) -> None:
        if self.layout not in LAYOUTS:
            raise UserError(f"data.layout is {self.layout!r}; choose one of {LAYOUTS}")

    def _require(self, name: str, kind: type, least: float, exclusive: bool = False) -> None:
        value = getattr(self, name)
        kinds = (int, np.integer) if kind is int else (int, float, np.number)
        wanted = f"{'an integer' if kind is int else 'a number'}, "
        wanted += f"greater than {least}" if exclusive else f"{least} or more"
        numeric = isinstance(value, kinds) and not isinstance(value, bool)
        if not numeric or not least <= value < math.inf or (exclusive and value == least):
            raise UserError(f"data.{name} is {value!r}; expected {wanted}")

    def _require_whole(self) -> None:
        for name in WHOLE:
            if (value := getattr(self, name)) != int(value):
                raise UserError(
                    f"data.{name} is {value!r}; the reference layout wants a whole number of pixels"
                )
        widest = 2 * self.paddle_length + 2 * self.margin + self.paddle_thickness
        if widest > REFERENCE_REACH or 2 * self.marker_radius > REFERENCE_REACH:
            raise UserError(
                f"data.paddle_length is {self.paddle_length:g} with margin {self.margin:g} and "
                f"thickness {self.paddle_thickness:g}, data.marker_radius {self.marker_radius:g}: "
                f"the reference layout wants 2 * (length + margin) + thickness and 2 * radius up "
                f"to {REFERENCE_REACH}"
            )

    def _require_room(self) -> None:
        """Checks what can be told beforehand; a scene that still finds no room says so."""
        step = self.paddle_length + 2 * self.margin
        reach = self.contour_length * step - 2 * self.margin
        room = self.window - 2 * self.padding
        if reach > math.sqrt(2) * room:
            raise UserError(
                f"data.window is {self.window:g} with padding {self.padding:g}: a contour of "
                f"{self.contour_length} paddles is {reach:g} long and the diagonal between the "
                f"borders {math.sqrt(2) * max(room, 0):.0f}"
            )
        if self.layout == "matched" and not self.clearance <= self.seed_distance <= reach / 2:
            raise UserError(
                f"data.seed_distance is {self.seed_distance:g}; expected {self.clearance:g} "
                f"(what paddles keep clear) to {reach / 2:g} (half the contour) for contours of "
                f"{self.contour_length} paddles"
            )

    @property
    def clearance(self) -> float:
        """Smallest distance between the centre lines of paddles that do not follow each other."""
        return 2 * self.margin + self.paddle_thickness

    @property
    def bar_thickness(self) -> float:
        """Width at which a paddle is drawn away from the published size."""
        return self.paddle_thickness * (1.1 if self.layout == "reference" else 1.0)
