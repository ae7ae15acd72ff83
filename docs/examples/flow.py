"""Flow matching: learn the velocity that carries noise to two moons, at a point and a time.

python train.py --dataset flow:load --model flow:Velocity --arms none mi --steps 400
"""

import torch
from sklearn.datasets import make_moons
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, Dataset

from mireg.ablation import Task


class Paths(Dataset):
    """A point between noise and data, its time, and the velocity there: drawn anew whenever it is read."""

    def __init__(self, count, seed):
        self.points = torch.tensor(make_moons(count, noise=0.05, random_state=seed)[0]).float()

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        noise, time = torch.randn(2), torch.rand(1)
        end = self.points[index]
        return (1 - time) * noise + time * end, time, end - noise


def load():
    """Two inputs: the network is called as ``network(point, time)``. All arms of a seed draw the same numbers."""
    train, validation = DataLoader(Paths(2048, 0), 128, shuffle=True), DataLoader(Paths(512, 1), 128)
    return train, validation, Task("flow matching", mse_loss, {"loss": (mse_loss, "min")}, outputs=2)


class Velocity(nn.Module):
    def __init__(self, outputs, depth=6, width=64):
        super().__init__()
        self.first = nn.Linear(3, width)
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)))
        self.head = nn.Linear(width, outputs)

    def forward(self, point, time):
        return self.head(self.layers(self.first(torch.cat([point, time], 1))))
