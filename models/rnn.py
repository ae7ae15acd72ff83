"""Deep recurrent network."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .parts import check_size

CELLS: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def rnn(
    input_shape: tuple[int, ...], classes: int, *, depth: int = 20, width: int = 32, cell: str = "lstm"
) -> nn.Module:
    """``depth`` recurrent layers over a sequence, and a linear head on the last step's output.

    Args:
        input_shape: (steps, features) of one sample, or (channels, height, width), where each row of the image is
            one step with all its channels.
        classes: outputs of the head.
        depth: recurrent layers.
        width: units per layer.
        cell: type of the layers: ``"lstm"``, ``"gru"`` or ``"rnn"``.

    Source: Hochreiter & Schmidhuber, Long short-term memory, Neural Computation 9, 1997.
    """
    check_size(depth=depth, width=width)
    if len(input_shape) not in (2, 3):
        raise ValueError(f"an rnn needs samples of shape (steps, features) or of images, not {input_shape}")
    if cell not in CELLS:
        raise ValueError(f"unknown cell {cell!r}: choose from {', '.join(CELLS)}")
    features = input_shape[-1] * (input_shape[0] if len(input_shape) == 3 else 1)
    return RNN(features, classes, depth, width, CELLS[cell])


class RNN(nn.Module):
    """Recurrent layers, one module each, so that their outputs can be captured."""

    def __init__(self, features: int, classes: int, depth: int, width: int, cell: Callable[..., nn.RNNBase]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(cell(width if i else features, width, batch_first=True) for i in range(depth))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.movedim(1, 2).flatten(2) if x.ndim == 4 else x
        for layer in self.layers:
            steps = layer(steps)[0]
        return self.head(steps[:, -1])
