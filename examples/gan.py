"""A GAN with float16 gradients and one loss scale.

Who updates a loss scale that two optimizers share?  Both losses are multiplied by its value.  Both steps divide by it.
If a gradient overflows, its optimizer skips the step, and the scale stays the same for the other optimizer.  Your loop
calls ``update()`` at the end of each iteration: it halves the scale if a step was skipped, and doubles it after 300
iterations without one.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastopt

BATCH, STEPS = 128, 3000
CENTERS = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1)
rng = np.random.default_rng(0)


def real(count):
    """Points of eight Gaussians on a ring."""
    return (CENTERS[rng.integers(0, 8, count)] + rng.normal(0, 0.05, (count, 2))).astype(np.float32)


class Network:
    """Three layers, with parameters and gradients in float16 and arithmetic in float32."""

    def __init__(self, sizes):
        weights = [rng.normal(0, (2 / m) ** 0.5, (m, n)).astype(np.float16) for m, n in sizes]
        self.layers = [{"w": w, "b": np.zeros(w.shape[1], np.float16)} for w in weights]

    def forward(self, x):
        """The outputs; keeps the input of each layer."""
        self.x = []
        for layer in self.layers:
            self.x.append(np.maximum(x, 0.2 * x) if self.x else x)
            x = self.x[-1] @ layer["w"].astype(np.float32) + layer["b"]
        return x

    @np.errstate(over="ignore")
    def backward(self, by_x):
        """The gradients, infinite where float16 overflows, and the derivative by the inputs."""
        grads = []
        for layer, x in zip(self.layers[::-1], self.x[::-1], strict=True):
            grads.insert(0, {"w": (x.T @ by_x).astype(np.float16), "b": by_x.sum(axis=0).astype(np.float16)})
            by_x = by_x @ layer["w"].astype(np.float32).T
            if x is not self.x[0]:
                by_x *= np.where(x > 0, 1, 0.2)
        return grads, by_x


g, d = Network([(2, 64), (64, 64), (64, 2)]), Network([(2, 64), (64, 64), (64, 1)])
scale = fastopt.LossScale(interval=300)
options = {"lr": 1e-3, "betas": (0.5, 0.99), "grad_scale": scale, "nonfinite": "skip"}
opt_g, opt_d = fastopt.Adam(g.layers, ema_decay=0.995, **options), fastopt.Adam(d.layers, **options)
side, scales = np.repeat([[1], [-1]], BATCH, axis=0).astype(np.float32), []
for _ in range(STEPS):
    fake = g.forward(rng.standard_normal((BATCH, 2), np.float32))
    score = d.forward(np.concatenate([real(BATCH), fake]))
    opt_d.step(d.backward((np.tanh(score / 2) - side) * (scale.value / BATCH / 2))[0])
    _, by_fake = d.backward((np.tanh(d.forward(fake) / 2) - 1) * (scale.value / BATCH / 2))
    opt_g.step(g.backward(by_fake)[0])
    scales.append(scale.value)
    scale.update()
print(f"skipped of {STEPS} steps: discriminator {opt_d.skipped_steps}, generator {opt_g.skipped_steps}")

with opt_g.swapped("ema"):
    fake = g.forward(rng.standard_normal((1000, 2), np.float32))
away = np.linalg.norm(fake[:, None] - CENTERS, axis=2)
near = away.min(axis=1) < 0.2
print(
    f"near a Gaussian: {near.mean():.0%} of the samples; of each: {np.bincount(away.argmin(axis=1)[near], minlength=8)}"
)
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
left.plot(*real(1000).T, ".", ms=3, label="data")
left.plot(*fake.T, ".", ms=3, label="generator")
left.legend(loc="center")
left.set_aspect("equal")
right.semilogy(scales, base=2)
right.set(xlabel="steps", title="loss scale")
plt.show()
