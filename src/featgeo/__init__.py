"""featgeo: the local geometry of feature extraction in neural networks."""

from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.network.analyze import analyze
from featgeo.network.report import Report
from featgeo.network.views import LayerReport, View
from featgeo.theory.local import LocalProblem, Solution
from featgeo.theory.problem import local_problem

__all__ = [
    "FeatgeoError",
    "FeatgeoWarning",
    "LayerReport",
    "LocalProblem",
    "Report",
    "Solution",
    "View",
    "analyze",
    "local_problem",
]
__version__ = "0.1.0"
