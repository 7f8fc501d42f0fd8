"""The option and the closing table of the rules' benchmark."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--short", action="store_true", help="fewer sizes and rounds, for under a minute")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print how many times as long as fastopt NumPy takes, one line per rule and one column per size."""
    session = getattr(config, "_benchmarksession", None)
    medians: dict[tuple[str, int, str], float] = {}
    for benchmark in getattr(session, "benchmarks", ()):
        if not benchmark.has_error and {"rule", "size", "by"} <= benchmark.extra_info.keys():
            info = benchmark.extra_info
            medians[info["rule"], info["size"], info["by"]] = benchmark.stats.median
    pairs = [(rule, size) for rule, size, by in medians if by == "numpy" and (rule, size, "fastopt") in medians]
    if not pairs:
        return
    sizes = sorted({size for _, size in pairs})
    terminalreporter.section("naive NumPy / fastopt, medians")
    terminalreporter.write_line(f"{'elements':>12}" + "".join(f"{size:>12,}" for size in sizes))
    for rule in dict.fromkeys(rule for rule, _ in pairs):
        cells = (
            f"{medians[rule, size, 'numpy'] / medians[rule, size, 'fastopt']:.1f}x" if (rule, size) in pairs else ""
            for size in sizes
        )
        terminalreporter.write_line(f"{rule:>12}" + "".join(f"{cell:>12}" for cell in cells))
