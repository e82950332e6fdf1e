"""`python -m jopt merge` as a user sees it."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from jopt.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def files(saved, tmp_path, monkeypatch):
    """base, one and two.safetensors in the present folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    base = {
        "a/kernel": rng.normal(size=(4, 3)).astype(np.float32),
        "head/kernel": np.ones((3, 2), np.float32),
    }
    saved("base", base)
    for name in ("one", "two"):
        moved = base["a/kernel"] + rng.normal(size=(4, 3)).astype(np.float32)
        saved(name, {**base, "a/kernel": moved})
    return base


PLAIN = (
    *("merge", "--base", "base.safetensors"),
    *("--models", "one.safetensors", "two.safetensors"),
)


def test_one_command_from_files_to_a_file(files, tmp_path):
    """A process of its own; standard output is JSON alone."""
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "jopt",
                *PLAIN,
                "--method",
                "ties",
                "--scale",
                "0.5",
            ),
            *("--kwargs", "density=0.5", "zero_sign=positive", "--keep_base", "^head"),
            *("--weights", "1", "2", "--out", "new/out.safetensors", "--json"),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["out"] == "new/out.safetensors" and record["scale"] == 0.5
    assert record["names"] == ["one", "two"] and len(record["cosines"]) == 2
    assert "merged 100 %  a/kernel" in done.stderr
    found = load_file(tmp_path / "new/out.safetensors")
    moved = (found["a/kernel"] - files["a/kernel"]) != 0
    assert 0 < moved.sum() <= 12 and record["merged_sparsity"] == np.mean(~moved)
    assert np.array_equal(found["head/kernel"], files["head/kernel"])


def test_a_config_and_what_is_printed(files, tmp_path, capsys):
    """Flags stand for keys and win; tables; a second run is refused."""
    Path("c.py").write_text(
        "from jopt.weights import default_merge\n"
        "def get_config(arg=''):\n"
        "    c = default_merge()\n"
        "    c.base, c.out, c.method = 'base.safetensors', 'x', 'average'\n"
        "    c.models = ({'path': 'one.safetensors', 'name': 'cars', 'weight': 2.0},)\n"
        "    return c\n"
    )
    command = ["merge", "--config=c.py", "--config.keep_base=('^head',)"]
    command += ["--out", "out.safetensors"]
    assert main([*command, "--dry_run"]) == 0
    shown = capsys.readouterr()
    assert "merged  1 of 2 leaves, 12 numbers" in shown.out
    assert "model   one.safetensors (cars, weight 2)" in shown.out
    assert "base's: head/kernel" in shown.out and not Path("out.safetensors").exists()
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and "| cars        |" in shown.out
    assert re.search(r"\| cosine +\| +cars \|", shown.out)
    assert not Path("x").exists()
    assert main(command) == 2
    assert "out.safetensors exists; nothing is overwritten" in capsys.readouterr().err


def test_the_command_in_the_header_of_the_config(files, capsys):
    config = ROOT / "configs/merge_files.py"
    header = ast.get_docstring(ast.parse(config.read_text()))
    (command,) = re.findall(r"^\s*python -m jopt (.*)$", header, re.M)
    command = command.replace("configs/", f"{ROOT}/configs/").split()
    Path("models").mkdir()
    for name in ("one", "two"):
        Path(f"{name}.safetensors").rename(f"models/{name}.safetensors")
    assert main(command) == 0
    assert "ties(density=0.2), scale 1" in capsys.readouterr().out
    command = [word.replace(":ties", ":average") for word in command[:-1]]
    assert main(command) == 0
    assert np.array_equal(
        load_file("merged.safetensors")["head/kernel"], np.ones((3, 2))
    )


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (["--methd", "ties"], ["unknown argument --methd; did you mean '--method'?"]),
        (["--config=none.py"], ["config file none.py does not exist"]),
        (
            ["--method", "tie", "--where", "(", "--batch_stats", "bas", "--dtype", "f"],
            [
                "unknown merge method 'tie'; did you mean 'ties'?",
                "where: '(' is no regular expression",
                "batch_stats is 'bas'",
                "dtype is 'f'; known: float64",
                "did you mean 'base'?",
            ],
        ),
        (["--models", "none.safetensors"], ["none.safetensors does not exist"]),
        (["--method", "ties", "--kwargs", "densty=1"], ["'densty'", "density, scope"]),
        (["--method", "ties", "--kwargs", "density=2"], ["must be in [0, 1], found 2"]),
        (["--method", "fisher"], ["needs fishers, which come from data"]),
        (["--kwargs", "density"], ["KEY=VALUE is expected"]),
        (["--weights", "1"], ["--weights has 1 numbers for 2 models"]),
        (["--evaluate", "no.such:thing"], ["'no.such:thing' cannot be imported"]),
        (["--scale", "1", "--evaluate", "math:sqrt"], ["are both set"]),
        (["--names", "none.json"], ["none.json is not a readable JSON file"]),
        (["--out", "base.safetensors"], ["base.safetensors exists"]),
        (["--out", "x/y.safetensors.index.json"], ["an index is named model."]),
        (["--where", "nothing"], ["no leaf is merged of 2"]),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_written(
    files, capsys, flags, messages, tmp_path
):
    before = sorted(tmp_path.iterdir())
    assert main([*PLAIN, "--out", "out.safetensors", *flags]) == 2
    said = capsys.readouterr().err
    for message in messages:
        assert message in said, said
    assert sorted(tmp_path.iterdir()) == before


def test_config_keys_are_checked_together(files, capsys):
    Path("c.py").write_text(
        "from jopt.weights import default_merge\n"
        "def get_config(arg=''):\n"
        "    c = default_merge()\n"
        "    c.metod = 'ties'\n"
        "    del c.scale\n"
        "    return c\n"
    )
    assert main(["merge", "--config=c.py"]) == 2
    said = capsys.readouterr().err
    assert "unknown key metod" in said and "did you mean  method" in said
    assert "key scale is missing" in said
    Path("c.py").write_text(
        "from jopt.weights import default_merge\n"
        "def get_config(arg=''):\n"
        "    c = default_merge()\n"
        "    c.models = ({'path': 'one.safetensors', 'wieght': 1}, 3)\n"
        "    c.stages = ({'name': 'trimm'},)\n"
        "    c.names = ({'match': 'a', 'kind': 'linea', 'name': 'a'},)\n"
        "    return c\n"
    )
    assert main(["merge", "--config=c.py"]) == 2
    said = capsys.readouterr().err
    for message in (
        "base is not set",
        "out is not set",
        "models[0].wieght is unknown; did you mean 'weight'?",
        "models[1] is 3",
        "stages: unknown stage 'trimm'; did you mean 'trim'?",
        "names[0].kind is 'linea'",
    ):
        assert message in said, said


def test_damage_and_bad_numbers_fail(files, saved, capsys, tmp_path):
    bad = {**files, "a/kernel": np.full((4, 3), np.nan, np.float32)}
    saved("two", bad)
    assert main([*PLAIN, "--out", "out.safetensors"]) == 2
    assert "two (two.safetensors): " in capsys.readouterr().err
    data = Path("two.safetensors").read_bytes()
    Path("two.safetensors").write_bytes(data[:-1])
    assert main([*PLAIN, "--out", "out.safetensors"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("DamagedCheckpointError: two.safetensors is damaged")
    assert not Path("out.safetensors").exists()
