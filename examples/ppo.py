"""Reinforcement learning in torch, with steps of fastopt.

PPO learns to balance a pole on a cart.  After each 128 moves of 16 carts, the optimizer makes 16 steps of networks with
9 thousand parameters.  These steps are short, so the optimizer takes a large part of the time of learning.
``--optimizer`` chooses the optimizer.  ``clip_norm`` of fastopt replaces ``clip_grad_norm_``.
"""

import argparse
import time

import numpy as np
import torch
from torch import nn

import fastopt.torch

CARTS, MOVES, EPOCHS, BATCHES = 16, 128, 4, 4
DISCOUNT, TRACE, CLIP, ENTROPY, MAX_NORM = 0.99, 0.95, 0.2, 0.01, 0.5
OPTIMIZERS = {
    "fastopt": lambda params: fastopt.torch.Adam(params, lr=2.5e-3, eps=1e-5, clip_norm=MAX_NORM),
    "torch": lambda params: torch.optim.Adam(params, lr=2.5e-3, eps=1e-5),
    "torch-fused": lambda params: torch.optim.Adam(params, lr=2.5e-3, eps=1e-5, fused=True),
}


class Carts:
    """Carts that each balance a pole: Newton's equations in steps of 20 ms, at most 10 s."""

    gravity, cart, pole, half_length, force, dt, limit = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02, 500

    def __init__(self, count, seed):
        self.rng = np.random.default_rng(seed)
        self.state, self.age = self.start(count), np.zeros(count, int)

    def start(self, count):
        """Places, speeds, angles and angular speeds near rest."""
        return self.rng.uniform(-0.05, 0.05, (count, 4)).astype(np.float32)

    def move(self, right):
        """Push each cart; return which runs have ended (the pole fell or time is over), and how long they lasted."""
        x, v, angle, spin = self.state.T
        sin, cos = np.sin(angle), np.cos(angle)
        mass, moment = self.cart + self.pole, self.pole * self.half_length
        push = (np.where(right, self.force, -self.force) + moment * spin**2 * sin) / mass
        turn = (self.gravity * sin - cos * push) / (self.half_length * (4 / 3 - self.pole * cos**2 / mass))
        change = np.stack([v, push - moment * turn * cos / mass, spin, turn], axis=1)
        self.state = (self.state + self.dt * change).astype(np.float32)
        self.age += 1
        x, _, angle, _ = self.state.T
        over = (abs(x) > 2.4) | (abs(angle) > np.radians(12)) | (self.age >= self.limit)
        ages = self.age[over].tolist()
        self.state[over], self.age[over] = self.start(over.sum()), 0
        return over, ages


def layers(outputs, gain):
    """Two hidden layers of 64, and an output layer whose weights have this gain."""
    sizes = [(4, 64, 2**0.5), (64, 64, 2**0.5), (64, outputs, gain)]
    linear = [nn.Linear(m, n) for m, n, _ in sizes]
    for layer, (_, _, size) in zip(linear, sizes, strict=True):
        nn.init.orthogonal_(layer.weight, size)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(linear[0], nn.Tanh(), linear[1], nn.Tanh(), linear[2])


class Learner:
    """The policy, its optimizer and the carts."""

    def __init__(self, optimizer, iterations, seed=0):
        torch.manual_seed(seed)
        self.carts = Carts(CARTS, seed)
        self.actor, self.critic = layers(2, 0.01), layers(1, 1.0)
        self.params = [*self.actor.parameters(), *self.critic.parameters()]
        self.clips = optimizer != "fastopt"
        self.opt = OPTIMIZERS[optimizer](self.params)
        self.scheduler = torch.optim.lr_scheduler.LinearLR(self.opt, 1.0, 0.0, iterations)

    @torch.no_grad()
    def play(self):
        """Move the carts; return states, actions, log-probabilities, advantages, returns, and how long poles stood."""
        seen = torch.empty(MOVES + 1, CARTS, 4)
        actions = torch.empty(MOVES, CARTS, dtype=torch.long)
        logs, over, ages = torch.empty(MOVES, CARTS), torch.empty(MOVES, CARTS), []
        for t in range(MOVES):
            seen[t] = torch.from_numpy(self.carts.state)
            choice = torch.distributions.Categorical(logits=self.actor(seen[t]))
            actions[t] = choice.sample()
            logs[t] = choice.log_prob(actions[t])
            ended, lasted = self.carts.move(actions[t].numpy() == 1)
            over[t], ages = torch.from_numpy(ended), ages + lasted
        seen[MOVES] = torch.from_numpy(self.carts.state)
        values = self.critic(seen).squeeze(-1)
        advantages, trace = torch.empty(MOVES, CARTS), torch.zeros(CARTS)
        for t in reversed(range(MOVES)):
            surprise = 1 + DISCOUNT * values[t + 1] * (1 - over[t]) - values[t]
            trace = surprise + DISCOUNT * TRACE * (1 - over[t]) * trace
            advantages[t] = trace
        data = (seen[:-1], actions, logs, advantages, advantages + values[:-1])
        return [part.flatten(0, 1) for part in data], ages

    def learn(self, data):
        """Make the steps; return the seconds that the optimizer took."""
        seconds = 0.0
        for _ in range(EPOCHS):
            for rows in torch.randperm(MOVES * CARTS).chunk(BATCHES):
                seen, actions, logs, advantages, returns = (part[rows] for part in data)
                choice = torch.distributions.Categorical(logits=self.actor(seen))
                ratio = (choice.log_prob(actions) - logs).exp()
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                gain = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()
                error = 0.5 * (self.critic(seen).squeeze(-1) - returns).square().mean()
                self.opt.zero_grad()
                (0.5 * error - gain - ENTROPY * choice.entropy().mean()).backward()
                start = time.perf_counter()
                if self.clips:
                    nn.utils.clip_grad_norm_(self.params, MAX_NORM)
                self.opt.step()
                seconds += time.perf_counter() - start
        self.scheduler.step()
        return seconds


def main(arguments=None):
    """Train a policy and print how long the poles stand."""
    parser = argparse.ArgumentParser(description="PPO balances poles.")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="fastopt")
    parser.add_argument("--iterations", type=int, default=60, help="of 128 moves of 16 carts (default %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # faster for networks as small as this
    learner = Learner(options.optimizer, options.iterations)
    print(f"{'moves':>8} {'a pole stands':>14} {'learning':>9} {'steps':>9}")
    ages, learning, steps = [], 0.0, 0.0
    for i in range(1, options.iterations + 1):
        data, lasted = learner.play()
        ages += lasted
        start = time.perf_counter()
        steps += learner.learn(data)
        learning += time.perf_counter() - start
        if i % max(1, options.iterations // 10) == 0:
            print(f"{i * MOVES * CARTS:8} {np.mean(ages[-100:]):8.0f} moves {learning:7.2f} s {steps:7.2f} s")
    return float(np.mean(ages[-100:]))


if __name__ == "__main__":
    main()
