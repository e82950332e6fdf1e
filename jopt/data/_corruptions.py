"""Corrupted images for tests: nine kinds, each of five severities.

They are made for small grey images, where those of ImageNet-C would need another scale:
what is an amount of light is as there, what is a length is a part of the image's width.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from jopt.errors import ConfigError, check_choice

# N images; H, W height and width; C channels. Light is from 0 to 1.

Random = np.random.Generator
SEVERITIES = (1, 2, 3, 4, 5)


def _gaussian_noise(x: np.ndarray, deviation: float, random: Random) -> np.ndarray:
    return x + random.normal(scale=deviation, size=x.shape)


def _shot_noise(x: np.ndarray, photons: float, random: Random) -> np.ndarray:
    return random.poisson(x * photons) / photons


def _impulse_noise(x: np.ndarray, share: float, random: Random) -> np.ndarray:
    drawn = random.random(x.shape)
    x = np.where(drawn < share / 2, 0.0, x)
    return np.where(drawn > 1 - share / 2, 1.0, x)


def _blur(x: np.ndarray, width: float, random: Random) -> np.ndarray:
    from scipy import ndimage  # A tenth of a second, which few runs need.

    del random
    sigma = (0.0, width * x.shape[1], width * x.shape[2], 0.0)
    return ndimage.gaussian_filter(x, sigma, mode="constant")


def _contrast(x: np.ndarray, factor: float, random: Random) -> np.ndarray:
    del random
    mean = x.mean(axis=(1, 2), keepdims=True)
    return (x - mean) * factor + mean


def _brightness(x: np.ndarray, amount: float, random: Random) -> np.ndarray:
    del random
    return x + amount


def _pixelate(x: np.ndarray, block: float, random: Random) -> np.ndarray:
    """Means of blocks, in whole: cells of a coarser grid that a pixel belongs to."""
    del random
    height, width = x.shape[1:3]
    for axis, size in ((1, height), (2, width)):
        cells = max(round(size / (1 + block * size)), 1)
        cell_of = np.arange(size) * cells // size
        share = (cell_of[:, None] == cell_of) / np.bincount(cell_of)[cell_of]
        x = np.moveaxis(np.tensordot(share, x, axes=(1, axis)), 0, axis)
    return x


def _translation(x: np.ndarray, part: float, random: Random) -> np.ndarray:
    """By a part of the width, each image in a direction of its own."""
    angle = random.uniform(0, 2 * np.pi, size=len(x))
    shift_N2 = part * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return resampled(x, np.zeros(len(x)), shift_N2 * x.shape[1:3])


def _rotation(x: np.ndarray, degrees: float, random: Random) -> np.ndarray:
    """About the centre, to either side."""
    side = random.integers(0, 2, size=len(x)) * 2 - 1
    return resampled(x, side * np.deg2rad(degrees), np.zeros((len(x), 2)))


def resampled(x: np.ndarray, angle_N: np.ndarray, shift_N2: np.ndarray) -> np.ndarray:
    """Turned and shifted images, bilinear, with 0 around them."""
    height, width = x.shape[1:3]
    rows, columns = np.mgrid[:height, :width]
    centre = (height - 1) / 2, (width - 1) / 2
    # Where a pixel of the result comes from.
    down = rows - centre[0] - shift_N2[:, 0, None, None]
    right = columns - centre[1] - shift_N2[:, 1, None, None]
    cos, sin = (f(angle_N)[:, None, None] for f in (np.cos, np.sin))
    row = cos * down - sin * right + centre[0]
    column = sin * down + cos * right + centre[1]
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    top, left = np.floor(row).astype(int), np.floor(column).astype(int)
    image = np.arange(len(x))[:, None, None]
    result = np.zeros_like(x)
    for i in (0, 1):
        for j in (0, 1):
            weight = (1 - abs(row - top - i)) * (1 - abs(column - left - j))
            place = (
                np.clip(top + i + 1, 0, height + 1),
                np.clip(left + j + 1, 0, width + 1),
            )
            result += weight[..., None] * padded[image, *place]
    return result


# The amounts of `_contrast`, `_brightness` and the three kinds of noise are those of
# ImageNet-C (its published code); the rest are ours.
CORRUPTIONS: dict[str, tuple[Callable[..., np.ndarray], tuple[float, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (_shot_noise, (60.0, 25.0, 12.0, 5.0, 3.0)),
    "impulse_noise": (_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "blur": (_blur, (0.06, 0.08, 0.1, 0.12, 0.15)),
    "contrast": (_contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": (_brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "pixelate": (_pixelate, (0.04, 0.08, 0.12, 0.2, 0.3)),
    "translation": (_translation, (0.04, 0.08, 0.12, 0.16, 0.2)),
    "rotation": (_rotation, (10.0, 20.0, 30.0, 40.0, 50.0)),
}


def corrupt(images: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    """Images (N, H, W, C) of light from 0 to 1, corrupted; float32, cut to [0, 1].

    A pure function: equal arguments give equal images. `seed`, `name` and `severity`
    decide all random numbers, which are drawn for the N images in order.

    | name | what happens | severities 1 to 5 |
    |---|---|---|
    | gaussian_noise | adds normal noise of this deviation | .08 .12 .18 .26 .38 |
    | shot_noise | Poisson, so many photons in white | 60 25 12 5 3 |
    | impulse_noise | this share of values becomes 0 or 1 | .03 .06 .09 .17 .27 |
    | blur | Gaussian, deviation over the width | .06 .08 .1 .12 .15 |
    | contrast | distance from the image's mean, times | .4 .3 .2 .1 .05 |
    | brightness | added | .1 .2 .3 .4 .5 |
    | pixelate | means of blocks of 1 + this part of the width | .04 .08 .12 .2 .3 |
    | translation | part of the width, in a random direction | .04 .08 .12 .16 .2 |
    | rotation | degrees, to a random side | 10 20 30 40 50 |

    Noise, contrast and brightness are as strong as in ImageNet-C (Hendrycks and
    Dietterich, 2019, arXiv 1903.12261); what is measured in pixels there is a part of
    the width here, and its strengths are ours.

    Args:
        images: float, 0 to 1.
        name: a key of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: not negative.

    Fails: `ConfigError` for an unknown name or severity.

    >>> image = np.zeros((1, 2, 2, 1), np.float32)
    >>> corrupt(image, "brightness", 3)[0, 0, 0]
    array([0.3], dtype=float32)
    """
    check_choice("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise ConfigError(f"severity: expected 1 to 5, found {severity!r}")
    change, amounts = CORRUPTIONS[name]
    # A number for the name that does not depend on what other names there are.
    seeds = np.random.SeedSequence(
        seed, spawn_key=(zlib.crc32(name.encode()), severity)
    )
    random = np.random.Generator(np.random.Philox(seeds))
    light = np.asarray(images, np.float64)
    changed = change(light, amounts[severity - 1], random)
    return np.clip(changed, 0.0, 1.0).astype(np.float32)
