"""solve_head on the features before a model's last layer."""

import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import featgeo as fg
from featgeo.errors import FeatgeoError

X, Y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
X = X.float() / 16


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Dropout(0.5), nn.Linear(30, 10)
    ).train()


LOADER = list(zip(X.split(200), Y.split(200), strict=True))


@pytest.mark.parametrize("refine", [0, "exact"])
@pytest.mark.parametrize("layer", [None, "4"])
def test_the_head_of_a_model_is_that_of_its_features(refine, layer):
    model = network()
    head = fg.solve_head(model, LOADER, "cross_entropy", weight_decay=1e-2, refine=refine, layer=layer)
    with torch.no_grad():
        features = model[:-1].eval()(X)
    expected = fg.solve_head(features, Y, "cross_entropy", weight_decay=1e-2, refine=refine)
    torch.testing.assert_close(head.weight, expected.weight, atol=1e-4, rtol=1e-3)


def test_the_model_is_left_as_it_was_found():
    model = network()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random = torch.get_rng_state()

    class Breaks:
        def __iter__(self):
            yield X[:50], Y[:50]
            torch.rand(3)
            raise KeyboardInterrupt

    fg.solve_head(model, LOADER)
    with pytest.raises(KeyboardInterrupt):
        fg.solve_head(model, Breaks(), layer="4")
    assert torch.equal(random, torch.get_rng_state())
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert not any(m._forward_hooks for m in model.modules())


def test_a_head_without_a_bias_stays_without():
    model = nn.Sequential(nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 10, bias=False))
    assert not fg.solve_head(model, LOADER, weight_decay=1e-2, refine=2).bias.any()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Sequential(nn.Linear(64, 10), nn.LogSoftmax(1)), {}, "no softmax"),
        (nn.Sequential(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10)), {"layer": "0"}, "not the model's"),
        (nn.Linear(64, 10), {"layer": "head"}, "Linear layers"),
        (nn.Linear(64, 10), {"targets": None}, "no data"),
        (nn.Linear(64, 10), {"targets": (X.log(), Y)}, "batch 0"),
        (nn.Linear(64, 5), {}, r"0\.\.4"),
    ],
)
def test_bad_models_get_a_clear_error(model, options, message):
    with pytest.raises(FeatgeoError, match=message):
        fg.solve_head(model, **{"targets": LOADER, **options})


class Tagger(nn.Module):
    """A label per position: of tokens by a linear layer, of pixels by a convolution."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.body, self.head = (
            (nn.Linear(4, 6), nn.Linear(6, 3))
            if kind == "tokens"
            else (nn.Conv2d(4, 6, 1), nn.Conv2d(6, 3, 3 if kind == "patches" else 1, padding="same"))
        )

    def forward(self, x):
        return self.head(self.body(x).tanh())


@pytest.mark.parametrize("kind", ["tokens", "pixels", "patches"])
def test_the_head_of_a_label_per_position_is_that_of_its_rows(kind):
    model = Tagger(kind).double()
    x = torch.randn(30, 5, 4).double() if kind == "tokens" else torch.randn(30, 4, 5, 5).double()
    seen = x if kind == "tokens" else x.movedim(1, -1)
    y = (seen[..., 1] > 0).long() + (seen[..., 0] > 1).long()
    y.view(-1)[::7] = -100
    head = fg.solve_head(model, [(x[:20], y[:20]), (x[20:], y[20:])], refine="exact", weight_decay=1e-2)
    weight, bias = (part.detach().clone().requires_grad_() for part in (model.head.weight, model.head.bias))
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=300, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        state = {"head.weight": weight, "head.bias": bias}
        out = torch.func.functional_call(model, state, (x,))
        out = out.transpose(1, 2) if kind == "tokens" else out
        loss = nn.functional.cross_entropy(out, y) + 0.5e-2 * weight.square().sum()
        loss.backward(inputs=[weight, bias])
        return loss

    optimiser.step(closure)
    assert abs(head.objective - closure().item()) < 1e-9
    torch.testing.assert_close(head.weight, weight.detach().flatten(1), atol=1e-5, rtol=1e-4)
    fg.init_head_(model, (x, y), weight_decay=1e-2, refine="exact")
    torch.testing.assert_close(model.head.weight, weight.detach(), atol=1e-5, rtol=1e-4)
