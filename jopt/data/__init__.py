"""Batches of text (the plays of Shakespeare, or the user's files) and of images.

A batch of text is a dict of numpy arrays, for B rows of T tokens:

    inputs   int32 (B, T)    the bytes that are read
    targets  int32 (B, T)    the byte that follows each of them
    mask     float32 (B, T)  1 where a target counts, 0 where it is padding or context
    domain   int32 (B,)      the domain of the row's document, as in `domain_names`

A batch of labelled examples (`IMAGE_SETS`, `TrainExamples`) has the same keys, with
`inputs` float32 (B, H, W, C) for images and everything else (B,).

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

from jopt.data._augment import AUGMENTATIONS, Augmentation
from jopt.data._cache import cache_folder
from jopt.data._cifar import load_cifar10, load_cifar10_corrupted
from jopt.data._corpus import Corpus, Splits, token_count
from jopt.data._corruptions import CORRUPTIONS, SEVERITIES, corrupt
from jopt.data._digits import load_digits
from jopt.data._domain_shards import DomainShards
from jopt.data._evaluation import evaluation_batches
from jopt.data._examples import (
    Examples,
    ExampleSplits,
    TrainExamples,
    example_batches,
)
from jopt.data._image_sets import IMAGE_SETS, ImageSet
from jopt.data._imagenet import load_imagenet, load_imagenet_corrupted
from jopt.data._imagenet_shifts import IMAGENET_SHIFTS, Shift, load_imagenet_shift
from jopt.data._load import load
from jopt.data._mnist5k import load_mnist5k
from jopt.data._pixels import Pixels
from jopt.data._windows import TrainWindows

__all__ = [
    "AUGMENTATIONS",
    "CORRUPTIONS",
    "IMAGENET_SHIFTS",
    "IMAGE_SETS",
    "SEVERITIES",
    "Augmentation",
    "Corpus",
    "DomainShards",
    "ExampleSplits",
    "Examples",
    "ImageSet",
    "Pixels",
    "Shift",
    "Splits",
    "TrainExamples",
    "TrainWindows",
    "cache_folder",
    "corrupt",
    "evaluation_batches",
    "example_batches",
    "load",
    "load_cifar10",
    "load_cifar10_corrupted",
    "load_digits",
    "load_imagenet",
    "load_imagenet_corrupted",
    "load_imagenet_shift",
    "load_mnist5k",
    "token_count",
]
