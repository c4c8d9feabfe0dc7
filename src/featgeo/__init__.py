"""featgeo: the local geometry of feature extraction in neural networks."""

from typing import TYPE_CHECKING, Any

from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.network.analyze import analyze
from featgeo.network.report import Report
from featgeo.network.tracking.history import History
from featgeo.network.tracking.tracker import Tracker
from featgeo.network.views import Finding, LayerReport, View
from featgeo.theory.local import LocalProblem, Solution
from featgeo.theory.problem import local_problem

if TYPE_CHECKING:
    from featgeo.apply.compress import compress
    from featgeo.apply.compression import Compression, load_compressed
    from featgeo.apply.widths import suggest_widths
    from featgeo.tables.modes import ModalDecomposition
    from featgeo.tables.multiple import MultipleModalDecomposition
    from featgeo.tables.pairs import pair_dependence

__all__ = [
    "Compression",
    "FeatgeoError",
    "FeatgeoWarning",
    "Finding",
    "History",
    "LayerReport",
    "LocalProblem",
    "ModalDecomposition",
    "MultipleModalDecomposition",
    "Report",
    "Solution",
    "Tracker",
    "View",
    "analyze",
    "compress",
    "load_compressed",
    "local_problem",
    "pair_dependence",
    "suggest_widths",
]
__version__ = "0.1.0"

_LATER = {
    "Compression": "apply.compression",
    "ModalDecomposition": "tables.modes",
    "MultipleModalDecomposition": "tables.multiple",
    "compress": "apply.compress",
    "load_compressed": "apply.compression",
    "pair_dependence": "tables.pairs",
    "suggest_widths": "apply.widths",
}


def __getattr__(name: str) -> Any:
    """The names imported when first used: their rooms need pandas or scikit-learn, which are slow to load."""
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f"featgeo.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
