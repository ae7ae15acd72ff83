"""Estimates whose gradient is computed along with their value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mireg.estimators.base import in_full_precision

Formula = Callable[..., tuple[Tensor, ...]]


def closed_form(formula: Formula, *inputs: Tensor) -> Tensor:
    """Values with a gradient in closed form, twice differentiable and usable with :mod:`torch.func`.

    Args:
        formula: gives from the inputs the values (...), and for each input their gradient: entry p of the values
            depends on entry p (...) of every input alone, so that the gradient has the input's shape. It is run
            without recording, except in a second derivative: there autograd differentiates it.
        inputs: the tensors; those without a gradient belong into the formula.
    """
    if torch.is_grad_enabled():
        values: Tensor = _ClosedForm.apply(formula, *inputs)[0]
        return values
    return formula(*inputs)[0]


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(formula: Formula, *inputs: Tensor) -> tuple[Tensor, ...]:
        return formula(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.formula = inputs[0]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[1:], *output[1:])

    @staticmethod
    def backward(ctx: Any, *by_output: Tensor) -> tuple[Tensor | None, ...]:
        saved, factor = ctx.saved_tensors, by_output[0]
        inputs, gradients = saved[: len(saved) // 2], saved[len(saved) // 2 :]
        with in_full_precision(factor):
            if torch.is_grad_enabled():  # in a second derivative
                gradients = ctx.formula(*inputs)[1:]
            by_input = (factor.view(*factor.shape, *[1] * (g.ndim - factor.ndim)) * g for g in gradients)
            return None, *by_input
