"""Damage to checkpoints of a real run: always seen, never restored.

`--nightly` flips 1,000 bits instead of a few. The tally is in the summary.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from jopt.training._checkpoints import Checkpoints
from jopt.training._plan import make_plan, resolve
from jopt.training._run_folder import read_config
from jopt.tree import digest

FLAGS = ("--config.train.steps=30", "--config.checkpoint.every_steps=10")


@pytest.fixture
def run(digits):
    """A finished run with the steps 10, 20 and 30."""
    run = digits("run", *FLAGS)
    run.finish()
    assert run.committed() == [10, 20, 30]
    return run


class Inspector:
    """Restores the newest step of a run as a new process would."""

    def __init__(self, run) -> None:
        self.folder = run.checkpoints
        self.shapes = make_plan(resolve(read_config(run.path))).shapes
        checkpoints = Checkpoints(self.folder, keep=9)
        self.digests = {
            step: digest(checkpoints.restore(step, self.shapes)) for step in (20, 30)
        }
        checkpoints.close()
        self.whole = self.folder.with_name("whole")
        shutil.copytree(self.folder, self.whole)

    def silently_wrong(self) -> bool:
        """Whether what is restored now is anything else than step 20."""
        checkpoints = Checkpoints(self.folder, keep=9)
        restored = checkpoints.restore_newest(self.shapes)
        checkpoints.close()
        sound = restored.step == 20 and digest(restored.state) == self.digests[20]
        return not sound

    def mend(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self.whole, self.folder)


def test_single_bits(run, nightly, record_property):
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    inspector = Inspector(run)
    files = sorted(p for p in (run.checkpoints / "30").rglob("*") if p.is_file())
    sizes = [p.stat().st_size for p in files]
    count = 1000 if nightly else 25
    wrong = []
    for _ in range(count):
        # Half over all bytes, half over all files: a large file hides the small ones.
        weights = sizes if chance.random() < 0.5 else [size > 0 for size in sizes]
        (file,) = chance.choices(files, weights)
        bit = chance.randrange(8 * file.stat().st_size)
        flip(file, bit)
        if inspector.silently_wrong():
            wrong.append((file.name, bit))
        inspector.mend()
    record_property(
        "tally",
        f"seed {seed}, {count} bits flipped over {sum(sizes):,} bytes in "
        f"{len(files)} files, {count - len(wrong)} detected",
    )
    assert wrong == [], f"seed {seed}"


def flip(file: Path, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(bytes(content))


def largest(folder: Path, count: int) -> list[Path]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return sorted(files, key=lambda p: p.stat().st_size)[-count:]


def swap(a: Path, b: Path) -> None:
    middle = a.with_name("middle")
    a.rename(middle)
    b.rename(a)
    middle.rename(b)


def cut(folder: Path) -> None:
    (file,) = largest(folder, 1)
    os.truncate(file, file.stat().st_size - 1)


def fill_with_zeros(folder: Path) -> None:
    (file,) = largest(folder, 1)
    file.write_bytes(bytes(file.stat().st_size))


def take_the_older_manifest(folder: Path) -> None:
    shutil.copy(folder.with_name("20") / "manifest.json", folder / "manifest.json")


def take_the_older_data(folder: Path) -> None:
    """The manifest stays and everything under it is another step's."""
    manifest = (folder / "manifest.json").read_bytes()
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("20"), folder)
    (folder / "manifest.json").write_bytes(manifest)


DAMAGE = {
    "truncated": cut,
    "zeros": fill_with_zeros,
    "deleted": lambda folder: largest(folder, 1)[0].unlink(),
    "swapped": lambda folder: swap(*largest(folder, 2)),
    "stale manifest": take_the_older_manifest,
    "stale data": take_the_older_data,
    "manifest gone": lambda folder: (folder / "manifest.json").unlink(),
}


def test_whole_files(run):
    inspector = Inspector(run)
    wrong = []
    for name, damage in DAMAGE.items():
        damage(run.checkpoints / "30")
        if inspector.silently_wrong():
            wrong.append(name)
        inspector.mend()
    assert wrong == []
