"""Value learning and policy gradients in a small world: a point that is to be pushed to the middle of a line."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, smooth_l1_loss

from tests.zoo.adoption import Run, compare, descend

PUSH = torch.tensor([-0.2, 0.0, 0.2])


def begin(rows: int) -> Tensor:
    """Position and speed (rows, 2)."""
    return torch.stack([torch.rand(rows) * 2 - 1, torch.rand(rows) - 0.5], 1)


def move(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Next state, and a reward that is 0 at best."""
    speed = (0.9 * state[:, 1] + PUSH[action]).clamp(-1, 1)
    position = (state[:, 0] + 0.3 * speed).clamp(-2, 2)
    return torch.stack([position, speed], 1), -position.abs()


@torch.no_grad()
def cost(policy: nn.Module) -> float:
    """Mean distance from the middle under the likeliest action; about 0.8 at random."""
    state, total = begin(256), 0.0
    for _ in range(20):
        state, reward = move(state, policy(state)[:, :3].argmax(1))
        total -= reward.mean().item()
    return total / 20


def perceptron(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, outputs))


def q_learning(double: bool, run: Run) -> float:
    model, target = run.wrap(perceptron(3)), perceptron(3)
    target.load_state_dict(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(500):
        state = begin(64) * 1.5
        action = torch.randint(3, (64,))
        after, reward = move(state, action)
        value = model(state).gather(1, action[:, None])[:, 0]
        with torch.no_grad():
            best = (model if double else target)(after).argmax(1)
            wanted = reward + 0.9 * target(after).gather(1, best[:, None])[:, 0]
        loss = smooth_l1_loss(value, wanted) + run.mi_loss(model, wanted)
        descend(optimizer, loss)
        if step % 20 == 0:
            target.load_state_dict(model.state_dict())
    return cost(model)


def test_dqn() -> None:
    def dqn(run: Run) -> float:
        return q_learning(False, run)

    outcome = compare(dqn, seeds=1)
    outcome.is_active("input", "1", "3")
    assert max(outcome.mi) < 0.45


def test_double_dqn() -> None:
    def double_dqn(run: Run) -> float:
        return q_learning(True, run)

    outcome = compare(double_dqn, seeds=1)
    outcome.is_active("input", "1", "3")
    assert max(outcome.mi) < 0.45


def actor_critic(run: Run) -> float:
    """Many worlds at once; one body, the logits and the value in one output."""
    model = run.wrap(perceptron(4))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    state = begin(64)
    for step in range(450):
        out = model(state)
        policy = torch.distributions.Categorical(logits=out[:, :3])
        action = policy.sample()
        after, reward = move(state, action)
        with torch.no_grad():
            wanted = reward + 0.9 * model(after)[:, 3]
        advantage = wanted - out[:, 3]
        loss = -(policy.log_prob(action) * advantage.detach()).mean() + advantage.square().mean()
        loss = loss - 0.01 * policy.entropy().mean() + run.mi_loss(model, wanted)
        descend(optimizer, loss)
        state = begin(64) if step % 20 == 0 else after
    return cost(model)


def test_actor_critic() -> None:
    outcome = compare(actor_critic, seeds=1)
    outcome.is_active("input", "1", "3")
    assert max(outcome.mi) < 0.6


def reinforce(run: Run) -> float:
    """One state at a time, as in an episode of a single world: nothing to estimate from, and no harm."""
    model = run.wrap(perceptron(3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        state, gains, logs = begin(1), [], []
        for _ in range(10):
            policy = torch.distributions.Categorical(logits=model(state[0]))
            action = policy.sample()
            state, reward = move(state, action[None])
            logs.append(policy.log_prob(action))
            gains.append(reward)
        gain = torch.cat(gains).flip(0).cumsum(0).flip(0)
        loss = -(torch.stack(logs) * (gain - gain.mean())).mean() + run.mi_loss(model)
        descend(optimizer, loss)
    return cost(model)


@pytest.mark.filterwarnings("ignore:the MI term adds nothing")
def test_single_states() -> None:
    outcome = compare(reinforce, seeds=1)
    assert "single sample and no batch" in outcome.verdict
    assert outcome.mi == outcome.bare


class Actor(nn.Module):
    """A bounded action for each state."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, state: Tensor) -> Tensor:
        return 0.2 * self.body(state).tanh()


def steer(state: Tensor, push: Tensor) -> tuple[Tensor, Tensor]:
    speed = (0.9 * state[:, 1] + push[:, 0]).clamp(-1, 1)
    position = (state[:, 0] + 0.3 * speed).clamp(-2, 2)
    return torch.stack([position, speed], 1), -position.abs()


def ddpg(run: Run) -> float:
    """The critic takes state and action as two inputs; its gradient trains the actor."""

    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

        def forward(self, state: Tensor, action: Tensor) -> Tensor:
            return self.body(torch.cat([state, action], 1))

    actor, critic = run.wrap(Actor()), run.wrap(Critic())
    of_actor = torch.optim.Adam(actor.parameters(), lr=1e-3)
    of_critic = torch.optim.Adam(critic.parameters(), lr=2e-3)
    for _ in range(500):
        state = begin(64) * 1.5
        push = torch.rand(64, 1) * 0.4 - 0.2
        after, reward = steer(state, push)
        with torch.no_grad():
            wanted = reward[:, None] + 0.9 * critic(after, actor(after))
        loss = mse_loss(critic(state, push), wanted) + run.mi_loss(critic, wanted)
        descend(of_critic, loss)
        loss = -critic(state, actor(state)).mean() + run.mi_loss(actor)
        descend(of_actor, loss)
    state, total = begin(256), 0.0
    with torch.no_grad():
        for _ in range(20):
            state, reward = steer(state, actor(state))
            total -= reward.mean().item()
    return total / 20


def test_ddpg() -> None:
    outcome = compare(ddpg, seeds=1)
    outcome.is_active()
    assert max(outcome.mi) < 0.5
