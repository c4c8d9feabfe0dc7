"""The report of one layer: which roads lead from it to the output, and its views at the operating points they allow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from featgeo.data.batches import Batch
from featgeo.network.backward import MeanJacobian, mean_jacobians
from featgeo.network.beside import at_frozen, at_jacobian, other_road
from featgeo.network.ends import Statistic
from featgeo.network.frozen import FrozenLayer
from featgeo.network.inputs import constant_features, feature_gain
from featgeo.network.layers import Layer, weight_matrix
from featgeo.network.look import Outlook, look
from featgeo.network.moves import mean_loss, measured_step
from featgeo.network.roads import BYPASS
from featgeo.network.run import Runner
from featgeo.network.select import kind_of
from featgeo.network.sweep import Sweep
from featgeo.network.tail import FrozenTail, Usual
from featgeo.network.views import LayerReport, View
from featgeo.theory.bayes import bayes_action
from featgeo.theory.losses import Loss
from featgeo.theory.point import OperatingPoint
from featgeo.theory.risk import CanonicalRisk, Risk

CUT_OFF = (
    "no gradient comes back to it from the output, so its figures at the Bayes action are all zero. Usually the "
    "model's forward runs it under torch.no_grad() or calls detach() behind it: take that away to have them. If there "
    "is no such thing, the layer has no effect on the output. The average tail needs no gradient: read its figures."
)


@dataclass
class Bench:
    """What layers are judged with, once the data have been seen.

    Attributes:
        run: the model, in evaluation mode.
        taps: layers by name.
        found: what the pass over the data found.
        loss: the loss.
        statistic: T(y) of checked targets.
        risk: expected loss of an output.
        output: the output's operating point.
        weight_decay: λ.
        at: the operating point asked for, None for each layer's own.
        kept: some samples, for the passes that only bypassed layers and steps need.
        steps: whether small steps are measured for all layers.
        batches: these samples, once they are needed.
        seconds: of one forward pass over these samples.
        before: mean loss on these samples.
        tails: of the layers that nothing has been seen to bypass.
        jacobians: mean Jacobians of the bypassed layers.
        variations: by layer, what a first look at a few samples saw vary while it was frozen.
    """

    run: Runner
    taps: dict[str, Layer]
    found: Sweep
    loss: Loss
    statistic: Statistic
    risk: Risk
    output: OperatingPoint
    weight_decay: float
    at: str | None
    kept: Callable[[], list[Batch]]
    steps: bool = False
    variations: dict[str, float] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    seconds: float = 0.0
    before: float = 0.0
    tails: dict[str, FrozenTail] = field(default_factory=dict)
    jacobians: dict[str, MeanJacobian] = field(default_factory=dict)

    def judge(self) -> dict[str, LayerReport]:
        """Reports of all layers that the pass over the data saw."""
        layers = {name: self.taps[name] for name in self.found.layers}
        seen = {name: self.found.seen[name] for name in layers}
        lies = {name: note.lie for name, note in seen.items()}
        variation = {name: self.variations.get(name, 0.0) for name in layers if not seen[name].is_output}
        alone = [name for name, value in variation.items() if not value > BYPASS]
        if alone:
            before = dict(list(layers.items())[: list(layers).index(alone[-1]) + 1])
            usual = Usual.of(self.run, before, lies, self.found.probe, self.run.rows)
        for name in alone:
            weight, bias = weight_matrix(layers[name])
            self.tails[name] = FrozenTail(
                self.run, layers[name], self.found.probe, lies[name], self.run.rows, usual.until(name)
            )
            mean = self.found.layers[name].mean
            variation[name] = self.tails[name].bypass(weight @ mean + bias, usual.rows)
        bypassed = [name for name, value in variation.items() if not value <= BYPASS]
        if bypassed or self.steps:
            self.batches = self.kept()
        if self.batches:
            begin = time.perf_counter()
            self.before = mean_loss(self.run, self.loss, self.batches)
            self.seconds = time.perf_counter() - begin
        if bypassed and self.batches:
            passed = {name: layers[name] for name in bypassed}
            self.jacobians = mean_jacobians(self.run, passed, lies, self.batches)
        return {name: self._report(name, variation.get(name)) for name in self.found.layers}

    def _report(self, name: str, variation: float | None) -> LayerReport:
        outlook = Outlook.of(self.taps[name], name, self.found, self.risk, self.output, self.weight_decay)
        views, notes = {"average": look(outlook, outlook.average())}, list(outlook.notes)
        status, reason, default, passes = "analysed", "", "average", 0.0
        if variation is None:
            views["bayes"] = replace(views["average"], at="bayes", tail_r2=None)
        elif variation <= BYPASS:
            point = bayes_action(
                self.risk, self.tails[name], outlook.mean_action, precision=outlook.layer.weight.dtype
            )
            notes += (
                point.notes(f"layer '{name}'") if point.jacobian.any() else [f"layer '{name}': {CUT_OFF}"]
            )
            if isinstance(self.risk, CanonicalRisk) or point.reached:
                views["bayes"] = look(outlook, outlook.at_point(point))
            else:
                reason = "no bayes view: the tail cannot reach the output's Bayes action and the loss is not canonical"
        else:
            status = "bypassed"
            reason = (
                f"with the layer frozen the output still varies with the input ({variation:.1e} relative)"
            )
            if variation != variation:
                reason = "one sample only: cannot tell whether another road leads to the output"
            elif name in self.jacobians:
                begin = time.perf_counter()
                notes += self._beside(name, outlook, views)
                passes = (time.perf_counter() - begin) / max(self.seconds, 1e-9)
                default = "jacobian"
        if self.batches and (self.steps or passes):
            begin = time.perf_counter()
            for at, view in views.items():
                step = measured_step(self.run, self.loss, self.batches, outlook, view, self.before)
                views[at] = replace(view, step=step)
            passes += (time.perf_counter() - begin) / max(self.seconds, 1e-9)
        (gain, noise), constant = feature_gain(outlook), constant_features(outlook)
        return LayerReport(
            name=name,
            kind=kind_of(outlook.layer),
            neurons=len(outlook.bias),
            inputs=len(outlook.moments.mean),
            status=status,
            reason=reason,
            feature_rank=outlook.whitener.rank,
            is_output=variation is None,
            depth=list(self.found.layers).index(name),
            gain_features=gain,
            gain_features_noise=noise,
            constant_features=constant,
            averaged=self.found.seen[name].averaged,
            default=self.at if self.at in views else default,
            passes=max(self.run.processes.gather(passes)),
            views=views,
            warnings=tuple(notes),
        )

    def _beside(self, name: str, outlook: Outlook, views: dict[str, View]) -> list[str]:
        """Adds the views that another road calls for; returns what is to be said of them."""
        seen = self.found.seen[name]
        notes: list[str] = []
        frozen = FrozenLayer(self.run, outlook.layer, seen.lie, self.batches, self.loss)
        road = other_road(outlook, frozen, seen, self.statistic)
        views["jacobian"] = look(outlook, at_jacobian(outlook, self.jacobians[name], road))
        if self.at == "bayes":
            stand, notes = at_frozen(outlook, frozen, seen, name)
            views["bayes"] = look(outlook, stand)
        return notes
