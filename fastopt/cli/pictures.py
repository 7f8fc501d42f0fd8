"""Shared parts of the pictures of the demo and of the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "STYLE", "label_ends", "write_title"]

STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
}
COLOURS = {
    "sgd": "#6b6b6b",
    "momentum": "#1f5fb4",
    "nesterov": "#27a5c9",
    "adagrad": "#2c8a4b",
    "adadelta": "#8db021",
    "rmsprop": "#d9a400",
    "adam": "#d1262c",
    "adamw": "#f07f3c",
    "adamax": "#7d3cae",
    "nadam": "#e06bb5",
}


def write_title(axes: Axes, title: str, note: str, size: float = 15) -> None:
    """Put a title and a line about it over axes."""
    axes.set_title(title, loc="left", size=size, weight="bold", pad=size * 1.8)
    axes.text(0, 1.025, note, transform=axes.transAxes, color="#6b6b6b", size=size * 11 / 15, in_layout=False)


def label_ends(axes: Axes, ends: Mapping[str, float], colours: Mapping[str, str], room: float = 0.048) -> None:
    """Name curves at their last values, to the right of a logarithmic axis.

    Labels sit at the heights nearest to their curves' ends that leave each of them its room, a share of the axis.
    """
    from sklearn.isotonic import isotonic_regression  # type: ignore[import-untyped]

    bottom, top = np.log(axes.get_ylim())
    by_end = sorted((name for name, end in ends.items() if np.isfinite(end)), key=ends.__getitem__)
    places = [(np.log(ends[name]) - bottom) / (top - bottom) for name in by_end]
    steps = room * np.arange(len(places))
    heights = isotonic_regression(places - steps, y_min=0) + steps if places else []
    for name, place, height in zip(by_end, places, heights, strict=True):
        axes.annotate(
            name,
            (1, place),
            (1.045, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            color=colours[name],
            weight="bold",
            arrowprops={"arrowstyle": "-", "color": colours[name], "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 0},
        )
