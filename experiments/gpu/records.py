"""What a measurement writes: its rows, the machine, and whether that had a GPU."""

import json
from pathlib import Path
from typing import Any

import jax

from common.train import describe_environment

NOT_YET = "not yet run on a GPU"


def on_gpu() -> bool:
    """Tells whether JAX computes on a GPU here."""
    return jax.default_backend() == "gpu"


def status() -> str:
    """Returns 'run on a GPU', or that it was not."""
    return "run on a GPU" if on_gpu() else f"{NOT_YET}: a shrunken form, on a CPU"


def peak_bytes() -> int | None:
    """Returns the most bytes of the GPU in use so far, or None."""
    stats = jax.devices()[0].memory_stats() if on_gpu() else None
    return None if not stats else int(stats["peak_bytes_in_use"])


def write_record(file: Path, **content: Any) -> None:
    """Writes a record as JSON, with the status in front, and says where."""
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {"status": status(), "environment": describe_environment(), **content}
    file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"{record['status']}; wrote {file}")
