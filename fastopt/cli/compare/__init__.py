"""``python -m fastopt compare``: which rule suits which task, by learning-rate sweeps on small tasks with real data."""
