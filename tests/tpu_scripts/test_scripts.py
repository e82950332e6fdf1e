"""shellcheck over the scripts, and the bats files beside this one.

Both tools are Debian packages. Without them these tests are skipped;
JOPT_REQUIRE_SCRIPT_TOOLS=1 makes that a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SCRIPTS = ROOT / "tpu_scripts"
SHELL = sorted([*SCRIPTS.glob("*.sh"), SCRIPTS / "slurm.sbatch"])
# The settings of every script are quick to try; whole lives of machines take longer.
BATS = [
    pytest.param(path, marks=[] if path.stem == "settings" else [pytest.mark.faults])
    for path in sorted(HERE.glob("*.bats"))
]
NAMED = (
    "common.sh create.sh wait.sh setup.sh sync_code.sh launch.sh status.sh logs.sh "
    "kill.sh delete.sh babysit.sh env.example README.md"
).split()


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed: apt-get install {name}"
        if os.environ.get("JOPT_REQUIRE_SCRIPT_TOOLS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def run(*command: object, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=580,
    )


def test_shellcheck_has_nothing_to_say():
    done = run(tool("shellcheck"), *SHELL)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", BATS, ids=lambda path: path.stem)
def test_bats(path):
    done = run(tool("bats"), path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_scripts_are_there_and_start_alike():
    assert {path.name for path in SCRIPTS.iterdir()} >= set(NAMED)
    for path in SHELL:
        text = path.read_text()
        assert text.startswith("#!/usr/bin/env bash\n"), path
        assert "\nset -euo pipefail\n" in text, path
        assert os.access(path, os.X_OK), path


def test_every_setting_is_explained():
    """What common.sh takes is in env.example, and nothing else."""
    source = (SCRIPTS / "common.sh").read_text()
    settings = source.split('SETTINGS="')[1].split('"')[0].split()
    lines = (SCRIPTS / "env.example").read_text().splitlines()
    explained = [line.lstrip("# ").split("=")[0] for line in lines if "=" in line]
    assert sorted(explained) == sorted(settings)


def test_gke_manifest_is_yaml(tmp_path):
    yaml = pytest.importorskip("yaml")
    settings = dict(BUCKET="b", RUN_NAME="run.1", IMAGE="i", CLAIM="c", CHIPS="4")
    settings |= dict(TPU_SELECTOR="tpu-v6e-slice", TOPOLOGY="4x4", HOSTS="4")
    words = ["python", "train.py", '--config=a "b" \\c.py', "--config.data.path=é: #"]
    done = run(SCRIPTS / "gke.sh", "--num_slices=2", "--", *words, **settings)
    assert done.returncode == 0, done.stderr
    job = yaml.safe_load(done.stdout)["spec"]["replicatedJobs"][0]
    pod = job["template"]["spec"]["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert command[command.index("--") + 1 :] == [*words, "--config.mesh.replica=2"]
    ignored = job["template"]["spec"]["podFailurePolicy"]["rules"][0]
    assert ignored["onExitCodes"]["values"] == [75]
    assert pod["restartPolicy"] == "Never"  # Kubernetes wants it with such a policy
