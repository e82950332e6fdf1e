"""Batches of text (the plays of Shakespeare, or the user's files) and of examples.

A batch of text is a dict of numpy arrays, for B rows of T tokens:

    inputs   int32 (B, T)    the bytes that are read
    targets  int32 (B, T)    the byte that follows each of them
    mask     float32 (B, T)  1 where a target counts, 0 where it is padding or context
    domain   int32 (B,)      the domain of the row's document, as in `domain_names`

A batch of labelled examples (`load_digits`, `TrainExamples`) has the same keys, with
`inputs` float32 (B, F) and everything else (B,).

The vocabulary is the 256 byte values. A document is read after one newline byte, so its
first byte is a target too.

>>> import pathlib, tempfile
>>> folder = tempfile.TemporaryDirectory()
>>> path = pathlib.Path(folder.name, "poem.txt")
>>> _ = path.write_bytes(b"Shall I compare thee to a summer's day? " * 20)
>>> splits = load(path=path)
>>> [token_count(corpus) for corpus in (splits.train, splits.validation, splits.test)]
[720, 40, 40]
>>> windows = TrainWindows(splits.train, seq_len=8, seed=0)
>>> batch = windows.batch(cursor=0, batch_size=4)
>>> {name: (array.dtype.name, array.shape) for name, array in batch.items()}
... # doctest: +NORMALIZE_WHITESPACE
{'inputs': ('int32', (4, 8)), 'targets': ('int32', (4, 8)),
 'mask': ('float32', (4, 8)), 'domain': ('int32', (4,))}
>>> folder.cleanup()
"""

from jopt.data._cache import cache_folder
from jopt.data._corpus import Corpus, Splits, token_count
from jopt.data._digits import PIXELS as DIGIT_PIXELS
from jopt.data._digits import load_digits
from jopt.data._evaluation import evaluation_batches
from jopt.data._examples import (
    Examples,
    ExampleSplits,
    TrainExamples,
    example_batches,
)
from jopt.data._load import load
from jopt.data._windows import TrainWindows

__all__ = [
    "DIGIT_PIXELS",
    "Corpus",
    "ExampleSplits",
    "Examples",
    "Splits",
    "TrainExamples",
    "TrainWindows",
    "cache_folder",
    "evaluation_batches",
    "example_batches",
    "load",
    "load_digits",
    "token_count",
]
