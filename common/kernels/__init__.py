"""Jitted array functions; they know no model."""

from common.kernels import goom
from common.kernels.causal_conv import causal_conv, causal_conv_state, causal_conv_step
from common.kernels.conv import correlate_2d
from common.kernels.cross_entropy import CrossEntropy, linear_cross_entropy
from common.kernels.film import film, film_parameters
from common.kernels.gelu import exact_gelu
from common.kernels.goom import Goom, from_goom, to_goom
from common.kernels.largest import larger, largest
from common.kernels.layer_norm import layer_norm
from common.kernels.mixing_conv import mixing_conv_2d
from common.kernels.products import by_rows, product, product_transposed, project
from common.kernels.scan import linear_scan
from common.kernels.scan_choice import choose_backend
from common.kernels.scan_sharded import sharded_linear_scan
from common.kernels.softmax import softmax
from common.kernels.spectral import (
    kernel_spectrum,
    lay_out_kernel,
    magnitude_bound,
    real_inverse_fft2,
    spectral_conv_2d,
)
from common.kernels.transitions import CoupledTransition, GatedInput

__all__ = [
    "CoupledTransition",
    "CrossEntropy",
    "GatedInput",
    "Goom",
    "by_rows",
    "causal_conv",
    "causal_conv_state",
    "causal_conv_step",
    "choose_backend",
    "correlate_2d",
    "exact_gelu",
    "film",
    "film_parameters",
    "from_goom",
    "goom",
    "kernel_spectrum",
    "larger",
    "largest",
    "lay_out_kernel",
    "layer_norm",
    "linear_cross_entropy",
    "linear_scan",
    "magnitude_bound",
    "mixing_conv_2d",
    "product",
    "product_transposed",
    "project",
    "real_inverse_fft2",
    "sharded_linear_scan",
    "softmax",
    "spectral_conv_2d",
    "to_goom",
]
