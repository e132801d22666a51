"""Maps read along a path through them, such as a contour."""

import numpy as np

from common.array_types import Float


def sample_along(
    maps: Float[np.ndarray, "*b h w"], points: Float[np.ndarray, "p 2"]
) -> Float[np.ndarray, "*b p"]:
    """Returns the values of maps at points, linear between the cells' centres.

    Args:
        maps: any maps on one grid.
        points: (y, x) from the upper left corner, as shares of the map's height and width; what
            lies beyond the centres of the outermost cells takes their value.
    """
    size = np.array(maps.shape[-2:])
    places = np.clip(np.asarray(points) * size - 0.5, 0, size - 1)
    low = np.minimum(places.astype(int), np.maximum(size - 2, 0))
    high = np.minimum(low + 1, size - 1)
    (u, v), (y0, x0), (y1, x1) = (places - low).T, low.T, high.T
    upper = (1 - v) * maps[..., y0, x0] + v * maps[..., y0, x1]
    lower = (1 - v) * maps[..., y1, x0] + v * maps[..., y1, x1]
    return (1 - u) * upper + u * lower
