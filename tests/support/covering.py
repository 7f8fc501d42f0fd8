"""Few combinations of options in which every two options meet, instead of the whole product of them."""

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any


def all_pairs(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Rows of one value of each factor. Each value of a factor meets each value of every other factor in some row.

    A fault that needs one certain option, or two, is in a row; one that needs three together may be in none. Where
    three go together, make one factor of two of them. The rows are the same on every run, sorted by the first factor.
    """
    left = {
        ((i, x), (j, y)): None  # in the place of a set, whose order differs between runs
        for i, j in combinations(range(len(factors)), 2)
        for x, y in product(range(len(factors[i])), range(len(factors[j])))
    }
    rows: set[tuple[int, ...]] = set()
    while left:
        row = dict(next(iter(left)))
        for i, factor in enumerate(factors):
            if i not in row:
                met = [sum(tuple(sorted((one, (i, x)))) in left for one in row.items()) for x in range(len(factor))]
                turned = [(x + len(rows)) % len(factor) for x in range(len(factor))]  # so that equals take turns
                row[i] = max(turned, key=met.__getitem__)
        for pair in combinations(sorted(row.items()), 2):
            left.pop(pair, None)
        rows.add(tuple(row[i] for i in range(len(factors))))
    return [tuple(factor[x] for factor, x in zip(factors, row, strict=True)) for row in sorted(rows)]
