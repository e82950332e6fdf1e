"""The structure: every module imports, arrows point down, docs show what tests run."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jopt

ROOT = Path(__file__).parents[1]

# A layer may import layers above it in this list, and itself; never one below.
LAYERS = (
    ("errors", "tree", "matrix"),
    ("linalg",),
    ("criteria",),
    ("transforms",),
    ("optimizers",),
    ("landscape",),
    ("merging",),
    ("models", "data", "parallel"),
    ("objectives",),
    ("reporting",),
    ("training",),
    ("weights",),
    ("studies",),
    ("__main__",),
)
# These know nothing of optimizers: only the first layer, and each their own.
APART = {
    "models": {"errors", "tree", "matrix"},
    "data": {"errors", "tree", "matrix"},
    "parallel": {"errors", "tree", "matrix"},
    "reporting": {"errors", "tree"},
    "objectives": {"errors", "tree", "matrix", "models"},
}
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(jopt.__path__, prefix="jopt.")
)


@pytest.mark.parametrize("name", [m for m in MODULES if not m.endswith("__main__")])
def test_module_imports(name):
    importlib.import_module(name)


def imports(path: Path) -> set[str]:
    """Top-level names of jopt that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [node.module]
            if node.module == "jopt":
                names = [f"jopt.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {n.split(".")[1] for n in names if n.startswith("jopt.")}
    return found


def layer(path: Path) -> str:
    return path.relative_to(ROOT / "jopt").parts[0].removesuffix(".py")


FILES = sorted(
    p for p in (ROOT / "jopt").rglob("*.py") if p.parent != ROOT / "jopt"
) + [ROOT / "jopt" / f"{name}.py" for name in ("errors", "tree", "matrix", "__main__")]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down_the_layers(path):
    own = layer(path)
    assert own in RANK, f"{own} is not in the layer list"
    for other in imports(path) - {own}:
        assert other in RANK, f"{path} imports jopt.{other}, which is in no layer"
        assert RANK[other] <= RANK[own], f"jopt.{own} must not import jopt.{other}"
        if own in APART:
            assert other in APART[own], f"jopt.{own} must not know jopt.{other}"


def test_layer_list_is_the_documented_one():
    text = (ROOT / "docs/architecture.md").read_text()
    block = re.search(r"<!-- layers -->\n```\n(.*?)```", text, re.S).group(1)
    documented = [tuple(line.split("  ")[0].split()) for line in block.splitlines()]
    assert documented == [names for names in LAYERS if names != ("__main__",)]


DECOMPOSITION = r"jnp\.linalg\.(svd|eigh?|eigvalsh|qr|cholesky|solve|inv|lstsq)\("


def test_decompositions_of_stacks_are_asked_for_in_one_place():
    asking = {
        str(path.relative_to(ROOT / "jopt"))
        for path in FILES
        if re.search(DECOMPOSITION, path.read_text())
    }
    # The doctor decomposes one matrix, outside of any program.
    assert asking == {"linalg/_lapack.py", "training/doctor.py"}


HEAVY = (
    "flax",
    "orbax",
    "grain",
    "tensorflow_datasets",
    "matplotlib",
    "ml_collections",
    "safetensors",
)


def test_import_jopt_is_light_and_touches_no_device():
    code = f"""
import sys, os
before = dict(os.environ)
import jopt
missing = [name for name in jopt.__all__ if not hasattr(jopt, name)]
assert not missing, missing
assert set(jopt.__all__) <= set(dir(jopt)), dir(jopt)
assert not hasattr(jopt, "no_such_name")
heavy = [name for name in {HEAVY!r} if name in sys.modules]
assert not heavy, heavy
assert dict(os.environ) == before
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


CONFIGS = sorted((ROOT / "configs").glob("*.py"))
# Headers of these name other commands, which their own tests run.
NOT_TRAINED = {"merge_digits", "merge_files"}


@pytest.mark.parametrize(
    "path", [p for p in CONFIGS if p.stem not in NOT_TRAINED], ids=lambda p: p.stem
)
def test_config_header_gives_a_command_that_runs(path, monkeypatch, capsys):
    from jopt.training.main import main

    monkeypatch.chdir(ROOT)
    header = ast.get_docstring(ast.parse(path.read_text()))
    commands = re.findall(r"^\s*python train\.py (.*)$", header, re.M)
    assert commands, "the header names no command"
    for command in commands:
        assert f"--config=configs/{path.name}" in command
        assert main([*command.split(), "--dry_run"]) == 0
        assert "parameters" in capsys.readouterr().out


def readme_commands() -> list[str]:
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_readme_commands_exist(monkeypatch, capsys):
    """`train.py` commands of the README are valid; the test command is this suite's."""
    from jopt.__main__ import COMMANDS
    from jopt.training.main import main

    monkeypatch.chdir(ROOT)
    trained = 0
    for line in readme_commands():
        words = line.split("#")[0].split()
        if words[:2] == ["python", "train.py"]:
            flags = [w for w in words[2:] if not w.startswith("--config.data.path")]
            assert main([*flags, "--dry_run"]) == 0, line
            trained += 1
        elif words[:3] == ["python", "-m", "jopt"]:
            assert words[3] in COMMANDS, line
    capsys.readouterr()
    assert trained >= 2
    assert "python -m pytest" in readme_commands()
