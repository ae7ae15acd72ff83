"""Find the successive layers of a network and capture their outputs during a forward pass."""

from mireg.layers.layout import Layout
from mireg.layers.select import INPUT, LayerSpec
from mireg.layers.taps import Taps
from mireg.layers.values import tensors_in

__all__ = ["INPUT", "LayerSpec", "Layout", "Taps", "tensors_in"]
