"""Diagnostics for one question: how can a layer learn while all the layers below it change?

Pure functions of tensors; nothing here changes a network. Each docstring gives the cost in passes over a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

Parameters = Mapping[str, Tensor]
"""Parameters of a network by name, as for :func:`torch.func.functional_call`."""


def feature_drift(before: Tensor, after: Tensor) -> float:
    """Relative change of the features that a layer receives.

    ``|after - before| / |before|``, Frobenius norms; no unit. Costs two forward passes.

    Args:
        before: (n, ...) features of n probe samples.
        after: the same samples' features, a step later.

    >>> feature_drift(torch.ones(4, 3), 1.5 * torch.ones(4, 3))
    0.5
    """
    return float(torch.linalg.vector_norm(after - before) / torch.linalg.vector_norm(before))


def alignment_drift(before: Tensor, after: Tensor) -> float:
    """Change of the representation up to scale and rotation.

    ``1 - CKA`` with linear kernels, between 0 and 1; NaN if the features are the same for every
    sample. Costs two forward passes.

    Args:
        before: (n, ...) features of n probe samples.
        after: the same samples' features, a step later.

    Source: Kornblith et al., Similarity of neural network representations revisited, ICML 2019.

    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
    >>> round(alignment_drift(x, 3 * x @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])), 6)
    0.0
    """
    x, y = (_centred(features) for features in (before, after))
    shared = torch.linalg.matrix_norm(x.T @ y) ** 2
    alignment = shared / (torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y))
    return float((1 - alignment).clamp_min(0))  # rounding can give -1e-16


def covariate_shift(
    loss: Callable[[Parameters], Tensor],
    before: Parameters,
    after: Parameters,
    layers: Sequence[Sequence[str]],
    sampled: Sequence[int],
) -> list[tuple[float, float]]:
    """Internal covariate shift: the effect of updating the layers below on a layer's gradient.

    With G the gradient of layer i at the parameters W of all layers, and G' its gradient after only the
    layers below i have taken their step: ``(|G - G'|, cos(G, G'))``. The norm has the unit of
    the loss over that of the weights; a cosine of 1 means no shift. Costs two backward passes per
    sampled layer.

    Args:
        loss: loss of one batch, as a function of all parameters by name.
        before: the parameters at a step.
        after: the parameters one step later.
        layers: names of each layer's parameters, from the input to the output.
        sampled: indices of the layers to measure.

    Source: Santurkar et al., How does batch normalization help optimization?, NeurIPS 2018,
    definition 2.1.

    >>> w = {"w1": torch.tensor([2.0]), "w2": torch.tensor([1.0])}
    >>> covariate_shift(lambda p: (p["w1"] * p["w2"]).sum(), w, {**w, "w1": torch.tensor([3.0])}, [["w1"], ["w2"]], [1])
    [(1.0, 1.0)]
    """
    shifts = []
    for index in sampled:
        below = {name for layer in layers[:index] for name in layer}
        mixed = {name: after[name] if name in below else value for name, value in before.items()}
        g, moved = (_gradient(loss, at, layers[index]) for at in (before, mixed))
        cosine = torch.nn.functional.cosine_similarity(g, moved, dim=0)
        shifts.append((torch.linalg.vector_norm(g - moved).item(), cosine.item()))
    return shifts


def gradient_norms(loss: Tensor, parameters: Parameters, layers: Sequence[Sequence[str]]) -> list[float]:
    """Norm of each layer's gradient, in the unit of the loss over that of the weights.

    Costs one backward pass; the graph is kept.

    Args:
        loss: 0-dim, attached to the graph of a forward pass.
        parameters: the parameters by name.
        layers: names of each layer's parameters.

    >>> w = {"a": torch.tensor([3.0, 4.0], requires_grad=True)}
    >>> gradient_norms((w["a"] ** 2).sum() / 2, w, [["a"]])
    [5.0]
    """
    names = [name for layer in layers for name in layer]
    gradients = torch.autograd.grad(loss, [parameters[name] for name in names], retain_graph=True, allow_unused=True)
    norm = {
        name: 0.0 if g is None else torch.linalg.vector_norm(g).item() for name, g in zip(names, gradients, strict=True)
    }
    return [math.hypot(*(norm[name] for name in layer)) for layer in layers]


def input_gradients(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Gradient of a scalar output with respect to each sample. Costs one backward pass.

    Args:
        function: maps (n, ...) samples to (n,) outputs, each of which depends only on its own sample.
        inputs: (n, ...) samples.

    Returns:
        (n, d) gradients, flattened.

    >>> input_gradients(lambda x: (x**2).sum(1), torch.tensor([[1.0, 2.0]]))
    tensor([[2., 4.]])
    """
    inputs = inputs.detach().requires_grad_()
    return torch.autograd.grad(function(inputs).sum(), inputs)[0].flatten(1)


def autocorrelation(gradients: Tensor) -> Tensor:
    """Autocorrelation of the gradients along a line; with shattered gradients it decays fast.

    With g_t centred over the line, ``sum_t g_t . g_{t+k} / sum_t |g_t|^2`` at each lag k; no unit.
    White noise gives 1, 0, 0, ...; NaN if the gradient is the same everywhere, as in a linear
    network. Costs one backward pass for the gradients.

    Args:
        gradients: (m, d) gradients at m equidistant points, from :func:`input_gradients`.

    Returns:
        (m,) autocorrelation at lags 0 to m - 1.

    Source: Balduzzi et al., The shattered gradients problem: if resnets are the answer, then what is
    the question?, ICML 2017.

    >>> autocorrelation(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]))
    tensor([ 1.0000, -0.7500,  0.5000, -0.2500])
    """
    centred = _centred(gradients)
    products = centred @ centred.T
    sums = torch.stack([products.diagonal(lag).sum() for lag in range(len(products))])
    return (sums / sums[0]).to(gradients.dtype)


def mean_cosine(gradients: Tensor) -> float:
    """Mean cosine between the gradients of different samples: 1 in a linear network, 0 if they are unrelated.

    Costs one backward pass for the gradients.

    Args:
        gradients: (n, d) gradients, n at least 2.

    Source: Balduzzi et al., ICML 2017.

    >>> mean_cosine(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]))
    -1.0
    """
    n = len(gradients)
    unit = torch.nn.functional.normalize(gradients.double(), dim=1)
    return float((unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1)))


def effective_rank(features: Tensor) -> float:
    """Number of directions that the features of n samples effectively use.

    ``exp(H)``, where H is the entropy (nats) of the singular values of the centred features, divided by their
    sum: r for r equally strong directions. NaN if every sample has the same features. Costs a
    forward pass and a singular value decomposition, O(n d min(n, d)).

    Args:
        features: (n, ...) features of n samples.

    Source: Roy & Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.

    >>> round(effective_rank(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 6)
    2.0
    """
    share = torch.linalg.svdvals(_centred(features))
    return float(torch.special.entr(share / share.sum()).sum().exp())


def participation_ratio(features: Tensor) -> float:
    """Number of directions that carry the variance of the features.

    ``(sum v)^2 / sum v^2`` over the variances v along the principal directions: r for r equally strong ones. It counts
    strong directions, whereas :func:`effective_rank` also counts weak ones. NaN if every sample has the same
    features. Costs a forward pass and a product of n x d matrices.

    Args:
        features: (n, ...) features of n samples.

    Source: Gao et al., A theory of multineuronal dimensionality, dynamics and measurement, bioRxiv 214262, 2017.

    >>> round(participation_ratio(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])), 6)
    2.0
    """
    x = _centred(features)
    products = x @ x.T if len(x) < x.shape[1] else x.T @ x
    return float(products.trace() ** 2 / products.square().sum())


def effective_parameters(count: int, nats: float) -> float:
    """Effective number of parameters between two layers, given their mutual information.

    ``count * exp(-I)``: the simplest interpretation of the paper's statement that the mutual information makes the
    effective number exponentially smaller. From n samples I is at most log n, so this is at least ``count / n``. Costs
    an estimate of I.

    Args:
        count: number of parameters between the layers.
        nats: mutual information I of the two layers.

    Source: after Hodas & Stinis, Doing the impossible: why neural networks can be trained at all,
    Frontiers in Psychology 9:1185, 2018.

    >>> round(effective_parameters(1000, math.log(10)), 6)
    100.0
    """
    return count * math.exp(-nats)


def layer_parameters(module: nn.Module) -> list[list[str]]:
    """Names of each layer's parameters, in the order in which the layers were registered.

    A layer begins at a parameter with at least two dimensions, its weight; biases and normalisation
    belong to the weight before them.

    >>> layer_parameters(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1)))
    [['0.weight', '0.bias', '1.weight', '1.bias'], ['3.weight', '3.bias']]
    """
    layers: list[list[str]] = []
    for name, parameter in module.named_parameters():
        if parameter.ndim >= 2 or not layers:
            layers.append([])
        layers[-1].append(name)
    return layers


def _gradient(loss: Callable[[Parameters], Tensor], at: Parameters, names: Sequence[str]) -> Tensor:
    """Gradient with respect to the named parameters, as one vector."""
    leaves = {name: value.detach().requires_grad_(name in names) for name, value in at.items()}
    gradients = torch.autograd.grad(loss(leaves), [leaves[name] for name in names])
    return torch.cat([gradient.flatten() for gradient in gradients])


def _centred(features: Tensor) -> Tensor:
    """(n, d) features in float64, minus their mean over samples: small steps need the precision."""
    rows = features.detach().flatten(1).double()
    return rows - rows.mean(0)
