"""What a Pathfinder image is made of, in the units of the published 300 x 300 images."""

import dataclasses

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
        if self.marker_distance not in MARKER_DISTANCES:
            given = self.marker_distance
            raise UserError(f"data.marker_distance is {given!r}; choose one of {MARKER_DISTANCES}")
        for name in ("image_size", "contour_length", "window", "paddle_length"):
            if getattr(self, name) <= 0:
                raise UserError(f"data.{name} is {getattr(self, name)}; it must be positive")
        if self.distractor_length is None:
            object.__setattr__(self, "distractor_length", max(1, self.contour_length // 3))
        room = self.window - 2 * self.padding
        reach = self.contour_length * (self.paddle_length + 2 * self.margin)
        if room < reach:
            raise UserError(
                f"data.window is {self.window:g} with padding {self.padding:g}: a contour of "
                f"{self.contour_length} paddles needs {reach:g} between the borders"
            )

    @property
    def clearance(self) -> float:
        """Smallest distance between the centre lines of paddles that do not follow each other."""
        return 2 * self.margin + self.paddle_thickness
