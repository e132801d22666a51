"""Analysis of trained models: arrays in, numbers, figures and pages out."""

from common.analysis import style
from common.analysis.attribution import (
    PathAttribution,
    input_gradient,
    integrated_gradients,
    spatial_attribution,
    temporal_attribution,
)
from common.analysis.capture import capture
from common.analysis.cost import Cost, count_flops, program_cost
from common.analysis.figures import (
    accuracy_by_distance,
    attribution_maps,
    attribution_over_time,
    binned_accuracy,
    comparison,
    gates_over_time,
    image_grid,
    kernel_grid,
    learning_curves,
    states_over_time,
)
from common.analysis.page import Page
from common.analysis.probes import (
    LogisticModel,
    ProbeScore,
    linear_probe,
    logistic_regression,
)
from common.analysis.similarity import (
    canonical_correlations,
    cka,
    feature_variance,
    norm_correlation,
    rv_coefficient,
    svcca,
)
from common.analysis.style import to_png

__all__ = [
    "Cost",
    "LogisticModel",
    "Page",
    "PathAttribution",
    "ProbeScore",
    "accuracy_by_distance",
    "attribution_maps",
    "attribution_over_time",
    "binned_accuracy",
    "canonical_correlations",
    "capture",
    "cka",
    "comparison",
    "count_flops",
    "feature_variance",
    "gates_over_time",
    "image_grid",
    "input_gradient",
    "integrated_gradients",
    "kernel_grid",
    "learning_curves",
    "linear_probe",
    "logistic_regression",
    "norm_correlation",
    "program_cost",
    "rv_coefficient",
    "spatial_attribution",
    "states_over_time",
    "style",
    "svcca",
    "temporal_attribution",
    "to_png",
]
