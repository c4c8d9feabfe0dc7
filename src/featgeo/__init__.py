"""featgeo: the local geometry of feature extraction in neural networks."""

from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.theory.local import LocalProblem, Solution
from featgeo.theory.problem import local_problem

__all__ = ["FeatgeoError", "FeatgeoWarning", "LocalProblem", "Solution", "local_problem"]
__version__ = "0.1.0"
