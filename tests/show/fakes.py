"""Reports as plain data, made up but consistent: gains follow from spectrum, alignment and scale."""

from __future__ import annotations

import math
from typing import Any

FIVE = [("conv1", "Conv2d", 16, 27), ("conv2", "Conv2d", 32, 144), ("fc1", "Linear", 128, 800),
        ("fc2", "Linear", 64, 128), ("head", "Linear", 10, 64)]  # fmt: skip


def fake_view(
    at: str,
    depth: float,
    *,
    modes: int = 9,
    alignment: float | None = None,
    scale: float | None = None,
    nulls: bool = False,
    constant_loss: float = math.log(10),
) -> dict[str, Any]:
    """A view of a layer at a relative depth in [0, 1], as Report.to_dict gives it."""
    wave = math.sin(9 * depth)
    strength = 0.35 + 0.5 * depth
    spectrum = [strength * 0.98**m * math.exp(-((m / (2.5 + 3 * depth)) ** 1.2)) for m in range(modes)]
    if alignment is None:
        alignment = 0.62 + 0.3 * depth + 0.06 * wave if at == "average" else 0.95 * depth - 0.3 + 0.1 * wave
    scale = scale if scale is not None else 0.8 + 0.4 * depth + 0.1 * wave
    available = 0.5 * sum(value**2 for value in spectrum)
    gap_weight = available * (1 - 2 * scale * alignment + scale**2)
    bias = 0.02 * available * (1.2 + wave)
    return {
        "at": at, "alignment": alignment, "scale": scale,
        "locality": min(1.0, max(0.02, 0.25 + 0.7 * depth + 0.1 * wave - (0.2 if at == "bayes" else 0))),
        "agreement": min(1.0, max(0.02, 0.25 + 0.7 * depth + 0.1 * wave)),
        "gain_available": available, "gain_used": available - gap_weight,
        "gain_adjusted": 0.93 * available, "gap_weight": gap_weight, "gap_bias": bias,
        "gap_rank": 0.15 * available * (1 - depth), "spectrum": spectrum, "noise_floor": 0.07,
        "constant_loss": constant_loss, "predicted_loss": constant_loss - available + gap_weight + bias,
        "tail_r2": 0.57 + 0.43 * depth if at == "average" else None,
        "alignment_error": 0.012, "gain_available_error": 0.031 * available, "gain_used_error": None,
        "saturated": [3, 5] if at == "bayes" and depth < 0.2 else [],
        "nulls": {
            "shuffled labels": [0.04 + 0.01 * i for i in range(5)],
            "re-drawn weights": [-0.3 + 0.05 * i - 0.1 * depth for i in range(4)],
        } if nulls else {},
        "optimal_weight": None, "optimal_bias": None,
    }  # fmt: skip


def fake_layer(
    name: str, kind: str, neurons: int, inputs: int, depth: float, **options: Any
) -> dict[str, Any]:
    """An analysed layer with both views."""
    return {
        "name": name, "kind": kind, "neurons": neurons, "inputs": inputs, "status": "analysed", "reason": "",
        "feature_rank": min(neurons, inputs), "default": "average",
        "views": {at: fake_view(at, depth, **options) for at in ("average", "bayes")}, "warnings": [],
    }  # fmt: skip


def skipped_layer(name: str, reason: str, kind: str = "Linear") -> dict[str, Any]:
    """A layer without any view."""
    layer = fake_layer(name, kind, 0, 0, 0.0)
    return {**layer, "status": "skipped", "reason": reason, "views": {}}


def fake_report(layers: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A report of these layers."""
    return {
        "format": 1, "layers": {layer["name"]: layer for layer in layers}, "loss": "cross_entropy",
        "loss_value": 1.187, "constant_loss": math.log(10), "samples": 10_000, "outputs": 10, "at": "average",
        "weight_decay": 0.0, "findings": [], "warnings": [], "seconds": 4.21,
        "versions": {"featgeo": "0.1.0", "torch": "2.13.0"}, **changes,
    }  # fmt: skip


def five_layers() -> dict[str, Any]:
    """A small network with nulls, a skipped and a bypassed layer, warnings and findings of every severity."""
    layers = [fake_layer(*spec, i / 4, nulls=True) for i, spec in enumerate(FIVE)]
    layers[0]["warnings"] = [
        "2 of 16 neurons are saturated at the Bayes action: the bayes view leaves them out."
    ]
    layers[1]["status"] = "bypassed"
    layers[1]["reason"] = "with the layer frozen the output still varies with the input (2.1e-02 relative)"
    layers[3]["views"]["average"] = fake_view("average", 0.75, alignment=0.41, scale=3.2, nulls=True)
    layers.insert(
        3, skipped_layer("attention.out_proj", "its output is a tuple", "NonDynamicallyQuantizableLinear")
    )
    findings = [
        {"layer": "fc2", "title": "Weights far from their local optimum", "severity": "act",
         "detail": "Alignment is 0.41 and the weights are 3.2 times as long as the optimal ones.",
         "remedy": "Raise the weight decay of this layer, or refit it and train on.",
         "call": 'fg.solve_head(model, data, "cross_entropy")', "value": 0.4, "threshold": 0.1},
        {"layer": "fc1", "title": "Wider than its features need", "severity": "note",
         "detail": "4 modes hold 99 % of the gain; the layer has 128 neurons.",
         "remedy": "Try compress(model, ...) with rank 4 and compare the loss."},
        {"layer": "conv1", "title": "Not in its local region", "severity": "doubt",
         "detail": "Locality is 0.25: the quadratic predicts the loss poorly here.",
         "remedy": "Rely on the average view, and on nulls, before acting on these numbers."},
    ]  # fmt: skip
    warnings = ["The data order changed between two passes: switch augmentation off while analysing."]
    return fake_report(layers, findings=findings, warnings=warnings)


def many_layers(count: int = 40) -> dict[str, Any]:
    """A deep network with long names; batch norms skipped, late layers without the bayes view."""
    layers = []
    for i in range(count):
        kind = "Conv2d" if i < count - 1 else "Linear"
        name = (
            f"features.denseblock{1 + i // 12}.denselayer{i % 12}.conv{1 + i % 2}"
            if kind == "Conv2d"
            else "classifier"
        )
        depth = i / max(1, count - 1)
        layer = fake_layer(name, kind, 64 + 8 * i, 576 + i, depth, modes=99, constant_loss=math.log(100))
        if i % 10 == 7:
            del layer["views"]["bayes"]
            layer["reason"] = "no bayes view: every neuron is saturated at the Bayes action"
            layer["warnings"] = [
                f"layer '{name}': all {64 + 8 * i} neurons are saturated at the Bayes action."
            ]
        if i % 13 == 5:
            layer["views"]["average"] = fake_view(
                "average", depth, modes=99, alignment=-0.2, scale=4.0, constant_loss=math.log(100))  # fmt: skip
        layers.append(layer)
    layers[5:5] = [skipped_layer(f"features.norm{i}", "no weight matrix", "BatchNorm2d") for i in range(3)]
    findings = [
        {"layer": layer["name"], "title": "wider than its modes need", "severity": "note",
         "detail": f"{7 + i} modes hold 99 % of the gain; it has {layer['neurons']} neurons",
         "remedy": f"Consider about {7 + i} neurons, or a factorised layer of that rank."}
        for i, layer in enumerate(layers[:9])
    ] + [
        {"layer": layer["name"], "title": "outside the local region", "severity": "doubt",
         "detail": f"the quadratic predicts a loss of {4 + i / 9:.3g} (locality {i / 20:.2f})",
         "remedy": "Read the alignment as a direction only; do not believe its gains and gaps."}
        for i, layer in enumerate(layers[:4])
    ]  # fmt: skip
    return fake_report(
        layers, findings=findings, loss_value=3.1, constant_loss=math.log(100), outputs=100, samples=50_000
    )
