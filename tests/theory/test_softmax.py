"""The kernels for few outputs are torch's, in another layout."""

import pytest
import torch
import torch.nn.functional as F

from featgeo.theory.softmax import NARROW, cross_entropy, softmax


@pytest.mark.parametrize("width", [1, 3, NARROW, NARROW + 1])
def test_values_and_derivatives_are_torchs(width):
    generator = torch.Generator().manual_seed(width)
    z = torch.randn(40, width, generator=generator, dtype=torch.float64) * 20
    labels = torch.randint(width, (40,), generator=generator)
    soft = torch.rand(40, width, generator=generator, dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(softmax(z), z.softmax(-1))
    torch.testing.assert_close(softmax(z[0]), z[0].softmax(-1))
    for targets in (labels, soft):
        for smoothing in (0.0, 0.1):
            ours = cross_entropy(z, targets, smoothing)
            theirs = F.cross_entropy(z, targets, reduction="none", label_smoothing=smoothing)
            torch.testing.assert_close(ours, theirs)
            slopes = torch.func.grad(lambda z, t=targets, s=smoothing: cross_entropy(z, t, s).sum())(z)
            expected = torch.func.grad(
                lambda z, t=targets, s=smoothing: F.cross_entropy(z, t, reduction="sum", label_smoothing=s)
            )(z)
            torch.testing.assert_close(slopes, expected)
