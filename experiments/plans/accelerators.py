"""Accelerators by their public data sheets."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """Peak figures of one device, and of what joins it to others.

    Attributes:
        name: as the maker calls it.
        matrix: operations a second of its matrix units, bfloat16 factors, dense.
        vector: operations a second of its vector units, float32.
        memory: bytes.
        bandwidth: bytes a second of the memory.
        near: bytes a second that it sends to the devices of its node, one way.
        node: devices that are joined so.
        far: bytes a second that it sends beyond, one way.
        source: where the figures are from.
    """

    name: str
    matrix: float
    vector: float
    memory: float
    bandwidth: float
    near: float
    node: int
    far: float
    source: str


H100 = Accelerator(
    "H100 SXM", 989e12, 67e12, 80e9, 3.35e12, 450e9, 8, 50e9,
    "NVIDIA H100 data sheet: dense bfloat16 is half of what it gives with sparsity; NVLink 900 "
    "GB/s both ways; between nodes one 400 Gb/s port a GPU, as in a DGX H100",
)  # fmt: skip
H200 = Accelerator(
    "H200 SXM", 989e12, 67e12, 141e9, 4.8e12, 450e9, 8, 50e9,
    "NVIDIA H200 data sheet; links as the H100's",
)  # fmt: skip
TPU_V5P = Accelerator(
    "TPU v5p", 459e12, 14e12, 95 * 2**30, 2.765e12, 600e9, 8960, 600e9,
    "Google Cloud, TPU v5p: 1,200 GB/s both ways in a 3D torus of up to 8,960 chips; the vector "
    "unit's rate is not in it (8 x 128 lanes, 4 operations, 2 cores, 1.75 GHz, after 'How to Scale "
    "Your Model', Austin et al. 2025)",
)  # fmt: skip
ACCELERATORS = (H100, H200, TPU_V5P)
