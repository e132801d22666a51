"""Pathfinder: are the two discs on one contour? Images from a seed and an index alone."""

from common.data.pathfinder.dataset import (
    PathfinderImages,
    load_or_generate,
    print_progress,
    split_seed,
)
from common.data.pathfinder.scene import Scene, draw_images, draw_scene, marker_headings
from common.data.pathfinder.settings import PathfinderSettings

__all__ = [
    "PathfinderImages",
    "PathfinderSettings",
    "Scene",
    "draw_images",
    "draw_scene",
    "load_or_generate",
    "marker_headings",
    "print_progress",
    "split_seed",
]
