"""Jitted array functions; they know no model."""

from common.kernels.scan import choose_backend, linear_scan
from common.kernels.spectral import (
    kernel_spectrum,
    lay_out_kernel,
    magnitude_bound,
    spectral_conv_2d,
)
from common.kernels.transitions import CoupledTransition, GatedInput

__all__ = [
    "CoupledTransition",
    "GatedInput",
    "choose_backend",
    "kernel_spectrum",
    "lay_out_kernel",
    "linear_scan",
    "magnitude_bound",
    "spectral_conv_2d",
]
