"""Bits per byte of an n-gram model: what a language model has to beat.

  python benchmarks/ngram.py                          # the plays, orders 3 to 7
  python benchmarks/ngram.py --path my_text --orders 2 5

The model of order N predicts a byte from the N - 1 bytes before it. Orders are mixed by
Witten-Bell interpolation,

  p_N(c | h) = (count(h c) + distinct(h) p_{N-1}(c | h')) / (count(h) + distinct(h)),

where h' is h without its first byte, distinct(h) is the number of different bytes seen
after h, p_0 = 1/256, and a context h that was never seen leaves p_{N-1}. There is
nothing to tune. The model is trained on the train split and scores every byte of the
validation split once. The context of a byte is what lies before it in its own
validation document, and newlines before that (training documents begin alike).

The plays (4,786,957 bytes of training, 265,937 of validation; 5 s, 0.4 GB):

  order           1      2      3      4      5      6      7      8
  bits per byte   4.797  3.575  2.688  2.190  1.945  1.883  1.916  2.003
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable

import numpy as np

from jopt.data import Corpus, load, token_count

MAX_ORDER = 8  # context and byte fill the 64 bits of a key


def bits_per_byte(
    train: Corpus, validation: Corpus, orders: Iterable[int]
) -> dict[int, float]:
    """Mean of -log2 p over all bytes of `validation`, by order in [1, 8].

    >>> same = lambda data: Corpus(np.frombuffer(data, np.uint8),
    ...     np.array([0, len(data)]), np.zeros(1, np.int32), ("a",), ("a",))
    >>> bits = bits_per_byte(same(b"ab" * 1000), same(b"ab" * 10), [1, 2])
    >>> {order: round(value, 2) for order, value in bits.items()}
    {1: 1.0, 2: 0.02}
    """
    wanted = set(orders)
    if not wanted or not wanted <= set(range(1, MAX_ORDER + 1)):
        raise ValueError(f"orders must be in [1, {MAX_ORDER}], got {sorted(wanted)}")
    result = {}
    probability = np.full(token_count(validation), 1 / 256)
    for order in range(1, max(wanted) + 1):
        probability = _interpolate(
            _keys(train, order), _keys(validation, order), probability
        )
        if order in wanted:
            result[order] = float(-np.log2(probability).mean())
    return result


def _keys(corpus: Corpus, order: int) -> np.ndarray:
    """Every byte with the `order - 1` before it as one uint64, the byte lowest."""
    before = order - 1
    starts = np.repeat(corpus.offsets[:-1], before)
    stream = np.insert(corpus.tokens, starts, ord("\n")).astype(np.uint64)
    document = np.repeat(np.arange(len(corpus.names)), np.diff(corpus.offsets))
    place = np.arange(token_count(corpus)) + before * (document + 1)
    keys = np.zeros(place.size, np.uint64)
    for back in range(order):
        keys |= stream[place - back] << np.uint64(8 * back)
    return keys


def _interpolate(
    train: np.ndarray, wanted: np.ndarray, shorter: np.ndarray
) -> np.ndarray:
    """Probability of the `wanted` keys, given that of the next shorter contexts."""
    grams, gram_counts = np.unique(train, return_counts=True)
    contexts, first, distinct = np.unique(
        grams >> np.uint64(8), return_index=True, return_counts=True
    )
    context_counts = np.add.reduceat(gram_counts, first)
    count = _look_up(grams, gram_counts, wanted)
    context = wanted >> np.uint64(8)
    total = _look_up(contexts, context_counts, context)
    kinds = _look_up(contexts, distinct, context)
    seen = total > 0
    mixed = (count + kinds * shorter) / np.where(seen, total + kinds, 1)
    return np.where(seen, mixed, shorter)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Values of the wanted keys among sorted keys, 0 where a key is missing."""
    place = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--orders", type=int, nargs="+", default=[3, 4, 5, 6, 7])
    parser.add_argument("--path", help="a text file or folder instead of the plays")
    arguments = parser.parse_args()
    if not set(arguments.orders) <= set(range(1, MAX_ORDER + 1)):
        parser.error(f"--orders must be in 1 to {MAX_ORDER}")
    splits = load(path=arguments.path)
    begin = time.perf_counter()
    bits = bits_per_byte(splits.train, splits.validation, arguments.orders)
    seconds = time.perf_counter() - begin
    print(f"train {token_count(splits.train):,} bytes", end=", ")
    print(f"validation {token_count(splits.validation):,} bytes, {seconds:.1f} s")
    print("order  bits per byte")
    for order, value in bits.items():
        print(f"{order:5d}  {value:13.4f}")


if __name__ == "__main__":
    main()
