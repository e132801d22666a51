"""A step made again, for a person to look at."""

from pathlib import Path
from typing import Any

import numpy as np

from common.train import Replay
from experiments.reports.contact_sheet import contact_sheet


def show_replay(found: Replay) -> None:
    """Prints where the step was made from, its examples, its metrics and its gradient."""
    print(f"step {found.step}, made again from step {found.start}")
    print("examples:", *found.indices)
    print(" ".join(f"{name}={value:.6g}" for name, value in found.metrics.items()))
    print("gradient norms:", *(f"{k}={x:.6g}" for k, x in found.gradient_norms.items()))
    print("not finite:", ", ".join(found.nonfinite) or "nothing")


def save_replay(found: Replay, folder: Path) -> list[Path]:
    """Writes the batch to `folder`.

    Returns:
        replay_N.npz, with the arrays of the batch and 'indices'; and replay_N.png, a picture of the
        images, where they are grey bytes with a label.
    """
    files = [folder / f"replay_{found.step}.npz"]
    arrays: dict[str, Any] = {"indices": found.indices, **found.batch}
    np.savez(files[0], **arrays)
    images, labels = found.batch.get("image"), found.batch.get("label")
    if images is not None and labels is not None and images.dtype == np.uint8:
        files.append(folder / f"replay_{found.step}.png")
        title = f"The batch of step {found.step}"
        contact_sheet(images, labels, title).save(files[-1])
    return files
