"""Analysis of trained models: arrays in, numbers, figures and pages out."""

from common.analysis import style
from common.analysis.animation import states_gif
from common.analysis.attention_figures import (
    attention_maps,
    kernel_profile,
    loss_by_position,
    offset_profile,
    tap_profiles,
)
from common.analysis.attribution import (
    PathAttribution,
    input_gradient,
    integrated_gradients,
    mean_magnitude,
    parameter_gradients,
    spatial_attribution,
    temporal_attribution,
)
from common.analysis.capture import capture
from common.analysis.causal_figures import answers_over_time, curves, knockouts, traces
from common.analysis.cost import Cost, count_flops, program_cost
from common.analysis.cost_figures import cost_over_length
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
from common.analysis.gradient_figures import kernel_gradients, mechanisms
from common.analysis.induction import (
    attention_by_offset,
    copying_score,
    copying_strength,
    in_context_learning_score,
    induction_score,
    ov_eigenvalues,
    prefix_matching_score,
    previous_occurrence,
    previous_token_score,
    repeat_losses,
)
from common.analysis.injection_figures import gates_over_training, scaling_and_shifting
from common.analysis.linear_systems import (
    by_radius,
    joint_gain,
    radial_frequencies,
    spectral_radius,
)
from common.analysis.page import Page
from common.analysis.paths import sample_along
from common.analysis.probes import (
    LogisticModel,
    ProbeScore,
    linear_probe,
    logistic_regression,
)
from common.analysis.receptive_fields import field_radius, receptive_field
from common.analysis.recurrence_figures import (
    gate_maps,
    impulse_maps,
    radius_by_frequency,
    receptive_fields,
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
    "answers_over_time",
    "attention_by_offset",
    "attention_maps",
    "attribution_maps",
    "attribution_over_time",
    "binned_accuracy",
    "by_radius",
    "canonical_correlations",
    "capture",
    "cka",
    "comparison",
    "copying_score",
    "copying_strength",
    "cost_over_length",
    "count_flops",
    "curves",
    "feature_variance",
    "field_radius",
    "gate_maps",
    "gates_over_time",
    "gates_over_training",
    "image_grid",
    "impulse_maps",
    "in_context_learning_score",
    "induction_score",
    "input_gradient",
    "integrated_gradients",
    "joint_gain",
    "kernel_gradients",
    "kernel_grid",
    "kernel_profile",
    "knockouts",
    "learning_curves",
    "linear_probe",
    "logistic_regression",
    "loss_by_position",
    "mean_magnitude",
    "mechanisms",
    "norm_correlation",
    "offset_profile",
    "ov_eigenvalues",
    "parameter_gradients",
    "prefix_matching_score",
    "previous_occurrence",
    "previous_token_score",
    "program_cost",
    "radial_frequencies",
    "radius_by_frequency",
    "receptive_field",
    "receptive_fields",
    "repeat_losses",
    "rv_coefficient",
    "sample_along",
    "scaling_and_shifting",
    "spatial_attribution",
    "spectral_radius",
    "states_gif",
    "states_over_time",
    "style",
    "svcca",
    "tap_profiles",
    "temporal_attribution",
    "to_png",
    "traces",
]
