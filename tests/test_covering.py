"""Few rows of options, in which every two options meet."""

from itertools import combinations, product
from math import prod

import pytest

from support.covering import all_pairs


@pytest.mark.parametrize("sizes", [(1, 1), (45, 6, 3), (45, 5, 2), (3, 5, 2, 2), (2, 2, 2)], ids=str)
def test_every_two_options_meet(sizes):
    factors = [[f"{i}.{x}" for x in range(size)] for i, size in enumerate(sizes)]
    rows = all_pairs(*factors)
    met = {pair for row in rows for pair in combinations(row, 2)}
    assert met == {pair for one, other in combinations(factors, 2) for pair in product(one, other)}
    assert rows == all_pairs(*factors)
    assert len(set(rows)) == len(rows) <= prod(sizes)


def test_they_are_few():
    """No fewer than the product of the two longest is possible."""
    assert len(all_pairs(range(45), range(6), range(3))) == 45 * 6
    assert len(all_pairs(range(5), range(5), range(2), range(2), range(2))) <= 27
