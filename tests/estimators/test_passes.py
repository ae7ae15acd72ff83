"""What is computed in few passes against what it stands for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mireg.estimators import Binning, InfoNCE
from mireg.estimators.binning import SPAN
from mireg.estimators.gram import _Asinh, _rows_of_ranks


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_asinh_is_asinh_from_the_smallest_to_the_largest(dtype: torch.dtype) -> None:
    sizes = torch.cat([torch.zeros(1, dtype=torch.float64), torch.logspace(-30, 18, 500, dtype=torch.float64)])
    x = torch.cat([sizes, -sizes]).to(dtype)
    torch.testing.assert_close(_Asinh.apply(x), torch.asinh(x), rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0)


def test_asinh_of_what_has_no_square_is_finite() -> None:
    x = torch.tensor([1e30, -1e38], requires_grad=True)
    drawn_in = _Asinh.apply(x)
    drawn_in.sum().backward()
    assert drawn_in.isfinite().all()
    assert torch.equal(drawn_in.sign(), x.sign())
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros(2))


def test_asinh_has_its_gradient() -> None:
    assert torch.autograd.gradcheck(_Asinh.apply, torch.cat([random(20), torch.zeros(1)]).requires_grad_())


def test_rows_of_ranks_hold_the_sorted_values_even_where_some_are_equal() -> None:
    layer = torch.cat([random(3, 21, 5).round(), random(3, 20, 5)], 1)
    ranks = [0, 10, 20, 40]
    rows = _rows_of_ranks(layer, ranks)
    assert torch.equal(layer.gather(-2, rows), layer.sort(-2).values[:, ranks])


class Plain(Binning):
    """Binning as its formula has it, step by step, with torch's own gradient."""

    def _nats(self, z: Tensor, partner: slice) -> Tensor:
        x, y = z[:-1], z[partner]
        rho = (x * y).mean(-1, keepdim=True) / (1 + 1e-4)
        unexplained = 1 - rho.square()
        single = self._entropies(self._soft(z)[..., None, :])
        nats = -unexplained[..., 0].log() / 2 + single[:-1] + single[1:]
        for given, rest in ((x, y), (y, x)):
            residual = (rest - rho * given) / unexplained.sqrt()
            cells = self._soft(given)[..., None, :] * self._soft(residual)[..., None, :, :]
            nats = nats - self._entropies(cells) / 2
        return nats

    def _soft(self, z: Tensor) -> Tensor:
        bins = self._bins(z.shape[-1])
        edges = torch.linspace(-SPAN, SPAN, bins + 1, dtype=z.dtype)
        centres, width = (edges[1:] + edges[:-1]) / 2, 2 * SPAN / bins
        z = z.clamp(-SPAN, SPAN)
        return torch.softmax(-(z[..., None, :] - centres[:, None]).square() / (2 * (self.softness * width) ** 2), -2)

    def _entropies(self, cells: Tensor) -> Tensor:
        """Entropy, with Miller's correction, from memberships (..., bins, bins or 1, n)."""
        n = cells.shape[-1]
        counts, squares = cells.sum(-1).flatten(-2), cells.square().sum(-1).flatten(-2)
        return torch.special.entr(counts / n).sum(-1) + ((squares / (counts + 1e-20)).sum(-1) - 1) / (2 * n)


@pytest.mark.parametrize("widths", [(1, 1, 1), (3, 5, 2)], ids=str)
@pytest.mark.parametrize("scale", [1.0, 1e3], ids=["near", "an outlier"])
def test_binning_is_its_formula_and_so_is_its_gradient(widths: tuple[int, ...], scale: float) -> None:
    first = random(40, widths[0])
    layers = [first, *(torch.tanh(first @ random(widths[0], d)) + 0.1 * random(40, d) for d in widths[1:])]
    for layer in layers:
        layer[0] *= scale
        layer.requires_grad_()
    found, asked = (estimator.successive(layers) for estimator in (Binning(slices=4), Plain(slices=4)))
    torch.testing.assert_close(found, asked, rtol=0, atol=1e-7)
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64)
    gradients = (torch.autograd.grad((weights * nats).sum(), layers) for nats in (found, asked))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * math.sqrt(float(theirs.square().sum())))


def test_a_critic_is_not_fitted_to_what_is_not_finite() -> None:
    rows = random(32, 2)
    rows[3, 1] = torch.nan
    with pytest.raises(ValueError, match="layer 1 holds 1 NaN"):
        InfoNCE().fit(random(32, 2), rows)
