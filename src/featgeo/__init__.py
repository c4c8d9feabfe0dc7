"""featgeo: the local geometry of feature extraction in neural networks."""

from typing import TYPE_CHECKING, Any

from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.network.analyze import analyze
from featgeo.network.compare import Comparison, compare
from featgeo.network.report import Report
from featgeo.network.tracking.history import History
from featgeo.network.tracking.tracker import Tracker
from featgeo.network.views import Finding, LayerReport, View
from featgeo.theory.local import LocalProblem, Solution
from featgeo.theory.problem import local_problem

if TYPE_CHECKING:
    from featgeo.apply.compress import compress
    from featgeo.apply.compression import Compression, load_compressed
    from featgeo.apply.estimators import LocalClassifier, LocalRegressor
    from featgeo.apply.head import Head, solve_head
    from featgeo.apply.init import init_head_, init_layers_
    from featgeo.apply.layer_features import layer_features
    from featgeo.apply.rank_features import rank_layers, rank_models
    from featgeo.apply.ranking import Ranking
    from featgeo.apply.transfer import TransferScore, transfer_score
    from featgeo.apply.widths import suggest_widths
    from featgeo.tables.modes import ModalDecomposition
    from featgeo.tables.multiple import MultipleModalDecomposition
    from featgeo.tables.pairs import pair_dependence

__all__ = [
    "Comparison",
    "Compression",
    "FeatgeoError",
    "FeatgeoWarning",
    "Finding",
    "Head",
    "History",
    "LayerReport",
    "LocalClassifier",
    "LocalProblem",
    "LocalRegressor",
    "ModalDecomposition",
    "MultipleModalDecomposition",
    "Ranking",
    "Report",
    "Solution",
    "Tracker",
    "TransferScore",
    "View",
    "analyze",
    "compare",
    "compress",
    "init_head_",
    "init_layers_",
    "layer_features",
    "load_compressed",
    "local_problem",
    "pair_dependence",
    "rank_layers",
    "rank_models",
    "solve_head",
    "suggest_widths",
    "transfer_score",
]
__version__ = "0.1.0"

_LATER = {
    "Compression": "apply.compression",
    "Head": "apply.head",
    "LocalClassifier": "apply.estimators",
    "LocalRegressor": "apply.estimators",
    "ModalDecomposition": "tables.modes",
    "MultipleModalDecomposition": "tables.multiple",
    "Ranking": "apply.ranking",
    "TransferScore": "apply.transfer",
    "compress": "apply.compress",
    "layer_features": "apply.layer_features",
    "init_head_": "apply.init",
    "init_layers_": "apply.init",
    "load_compressed": "apply.compression",
    "pair_dependence": "tables.pairs",
    "rank_layers": "apply.rank_features",
    "rank_models": "apply.rank_features",
    "suggest_widths": "apply.widths",
    "transfer_score": "apply.transfer",
    "solve_head": "apply.head",
}


def __getattr__(name: str) -> Any:
    """The names imported when first used: their rooms need pandas or scikit-learn, which are slow to load."""
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f"featgeo.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
