"""Word vectors from gradients of rows.

How do I train a table if each step needs only a few of its rows?  A ``RowGrad`` holds the gradients of some rows.  The
step reads and writes these rows of the table and of its state, and no others.  Here skip-gram with negative sampling
learns vectors of words from Python's help and docstrings: Mikolov et al., "Distributed representations of words and
phrases and their compositionality", 2013, https://arxiv.org/abs/1310.4546.
"""

import re
import time
from itertools import islice
from pathlib import Path
from pydoc_data import topics

import numpy as np

import fastopt

WIDTH, WINDOW, NEGATIVES, BATCH, EPOCHS = 64, 4, 8, 512, 4
files = [path.read_text("utf-8", "ignore") for path in sorted(Path(topics.__file__).parents[1].glob("*.py"))]
docstrings = [text for file in files for text in re.findall(r'"""(.*?)"""', file, re.DOTALL)]

# %%
# Words that occur eight times or more have a row.  Frequent words are dropped at random places, as in the paper.

rng = np.random.default_rng(0)
text = re.findall(r"[a-z_]{2,}", " ".join([*topics.topics.values(), *docstrings]).lower())
words, text, count = np.unique(text, return_inverse=True, return_counts=True)
text = np.where(count >= 8, np.cumsum(count >= 8) - 1, -1)[text]
words, share = words[count >= 8], count[count >= 8] / count.sum()
text = text[(text >= 0) & (rng.random(len(text)) < np.sqrt(1e-3 / share)[text])]
pairs = np.concatenate([np.stack([text[:-d], text[d:]], axis=1) for d in range(1, WINDOW + 1)])
draw = np.cumsum(share**0.75)
sign = np.float32([1] + [-1] * NEGATIVES)


def batches(rng):
    """Rows of words, and for each of them the row of a neighbor and rows drawn at random."""
    for batch in np.array_split(rng.permutation(pairs), len(pairs) // BATCH):
        drawn = np.searchsorted(draw, rng.uniform(0, draw[-1], (len(batch), NEGATIVES)))
        yield batch[:, 0], np.column_stack([batch[:, 1], drawn])


def dense(rows, values):
    """The gradient of a whole table."""
    grad = np.zeros((len(words), WIDTH), np.float32)
    np.add.at(grad, rows, values)
    return grad


def train(batches, gradient):
    """Vectors of words, losses, and the seconds that gradients of tables and steps took."""
    start = np.random.default_rng(1).uniform(-0.5, 0.5, (len(words), WIDTH)) / WIDTH
    tables = [start.astype(np.float32), np.zeros((len(words), WIDTH), np.float32)]
    opt, losses, seconds = fastopt.Adagrad(tables, lr=0.1), [], 0.0
    for word, others in batches:
        a, b = tables[0][word], tables[1][others]
        score = sign * np.einsum("id,ijd->ij", a, b)
        by_score = -sign / (1 + np.exp(score))
        by_a, by_b = np.einsum("ij,ijd->id", by_score, b), by_score[:, :, None] * a[:, None]
        losses.append(np.logaddexp(0, -score).sum(axis=1).mean())
        before = time.perf_counter()
        opt.step([gradient(word, by_a), gradient(others.ravel(), by_b.reshape(-1, WIDTH))])
        seconds += time.perf_counter() - before
    return tables[0], losses, seconds


# %%
# Adagrad's step with zeros elsewhere changes only the same rows: 50 batches give the same vectors in both ways.

ours, _, by_rows = train(islice(batches(np.random.default_rng(2)), 50), fastopt.RowGrad)
whole, _, by_tables = train(islice(batches(np.random.default_rng(2)), 50), dense)
print(f"{len(words)} words, largest difference of vectors {abs(ours - whole).max():.1e}")
print(f"a batch: {by_rows * 20:.2f} ms with RowGrad, {by_tables * 20:.2f} ms with gradients of whole tables")

vectors, losses, _ = train((batch for _ in range(EPOCHS) for batch in batches(rng)), fastopt.RowGrad)
print(f"loss {np.mean(losses[:100]):.3f} at first, {np.mean(losses[-100:]):.3f} at last")
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
for word in ("bytes", "directory", "first", "string", "thread", "true", "year"):
    print(f"{word:8} {' '.join(words[np.argsort(-vectors @ vectors[words == word][0])[1:7]])}")
