"""The experiments, in the order of the page."""

from featgeo.experiments import (
    average_tail,
    entropy_modes,
    entropy_output,
    entropy_window,
    hard_labels,
    hidden,
    mmse,
    networks,
    operating_points,
    order,
    training,
)
from featgeo.experiments.record import Experiment

CATALOGUE: tuple[Experiment, ...] = (
    order.EXPERIMENT,
    hidden.EXPERIMENT,
    entropy_output.EXPERIMENT,
    entropy_window.EXPERIMENT,
    entropy_modes.EXPERIMENT,
    networks.EXPERIMENT,
    mmse.EXPERIMENT,
    training.EXPERIMENT,
    average_tail.EXPERIMENT,
    operating_points.EXPERIMENT,
    hard_labels.EXPERIMENT,
)
