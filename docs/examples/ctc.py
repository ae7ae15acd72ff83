"""CTC: read the symbols in a sequence of noisy frames, of which nobody says where each begins.

python train.py --dataset ctc:load --model ctc:Net --arms none mi-label-free --steps 300 --goal 0.2
"""

import torch
from torch import nn
from torch.nn.functional import ctc_loss
from torch.utils.data import DataLoader

from mireg.ablation import Task

SYMBOLS, FEATURES = 5, 12
SHAPES = torch.randn(SYMBOLS + 1, FEATURES, generator=torch.Generator().manual_seed(0))


def sample(seed):
    """Frames (t, features) of three to six symbols, each two to four frames long, and the symbols, from 1.

    Neighbouring symbols differ: where one ends and the same begins again, nothing shows.
    """
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(3, 7, (), generator=generator))
    symbols = torch.randint(1, SYMBOLS, (count,), generator=generator).cumsum(0) % SYMBOLS + 1
    durations = torch.randint(2, 5, symbols.shape, generator=generator)
    frames = SHAPES[symbols.repeat_interleave(durations)]
    return frames + 0.3 * torch.randn(frames.shape, generator=generator), symbols


def collate(samples):
    """Pad a batch; what the loss needs beside the symbols, the lengths, belongs to the targets."""
    frames, symbols = zip(*samples)
    lengths = [torch.tensor([len(item) for item in part]) for part in (frames, symbols)]
    pad = nn.utils.rnn.pad_sequence
    return pad(frames, batch_first=True), (pad(symbols, batch_first=True), *lengths)


def loss(outputs, targets):
    symbols, frames, lengths = targets
    return ctc_loss(outputs.log_softmax(-1).transpose(0, 1), symbols, frames, lengths)


def error_rate(outputs, targets):
    """Share of the sequences that the best path does not get right; both come as lists of batches."""
    wrong = total = 0
    for scores, (symbols, frames, lengths) in zip(outputs, targets):
        for path, wanted, frame, length in zip(scores.argmax(-1), symbols, frames, lengths):
            read = path[:frame].unique_consecutive()
            wrong += read[read > 0].tolist() != wanted[:length].tolist()
            total += 1
    return wrong / total


def load():
    parts = [range(0, 512), range(10_000, 10_128)]
    loaders = [
        DataLoader([sample(seed) for seed in seeds], 32, shuffle=seeds is parts[0], collate_fn=collate)
        for seeds in parts
    ]
    return *loaders, Task("ctc", loss, {"error_rate": (error_rate, "min")}, outputs=SYMBOLS + 1)


class Net(nn.Module):
    def __init__(self, outputs, depth=3, width=32):
        super().__init__()
        self.first = nn.Linear(FEATURES, width)
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)))
        self.mix = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, frames):
        return self.head(self.mix(self.layers(self.first(frames)))[0])
