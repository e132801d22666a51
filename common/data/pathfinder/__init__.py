"""Pathfinder: are the two discs on one contour? Images from a seed and an index alone."""

from common.data.pathfinder.dataset import (
    GENERATOR_VERSION,
    SPLITS,
    PathfinderImages,
    load_or_generate,
    print_progress,
    split_seed,
)
from common.data.pathfinder.features import find_markers, shortcut_features
from common.data.pathfinder.scene import (
    DrawnImages,
    Scene,
    draw_images,
    draw_scene,
    draw_without,
)
from common.data.pathfinder.settings import PathfinderSettings

__all__ = [
    "GENERATOR_VERSION",
    "SPLITS",
    "DrawnImages",
    "PathfinderImages",
    "PathfinderSettings",
    "Scene",
    "draw_images",
    "draw_scene",
    "draw_without",
    "find_markers",
    "load_or_generate",
    "print_progress",
    "shortcut_features",
    "split_seed",
]
