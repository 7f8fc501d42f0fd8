"""The rules that torch has, and the options that tests against torch.optim draw for them."""

import numpy as np

from support.registry import CLASSES
from support.twins import Draw, always, power_of_ten

LR = power_of_ten(-4, -2)
TWINS = {name: cls.torch for name, cls in CLASSES.items() if cls.torch}
SHARED: dict[str, dict[str, Draw]] = {
    "plain": {},
    "weight_decay": {"weight_decay": power_of_ten(-3, -1)},
    "maximize": {"maximize": always(True)},
    "both_stages": {"weight_decay": power_of_ten(-3, -1), "maximize": always(True)},
}
ROWS = {
    f"{cls}-{name}": (cls, {"lr": LR, **twin.own, **option})
    for cls, twin in TWINS.items()
    for name, option in {**SHARED, **twin.options}.items()
    if twin.has_decay or "weight_decay" not in option
}


def assert_close(ours: list[np.ndarray], theirs: list[np.ndarray], tolerance: float) -> None:
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p, q, rtol=0, atol=tolerance * max(abs(q).max(initial=0), 1e-300))
