"""shellcheck over the scripts, and the bats files beside this one.

Both tools are Debian packages. Without them these tests are skipped;
JOPT_REQUIRE_SCRIPT_TOOLS=1 makes that a failure.
"""

from __future__ import annotations

import os
import re
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
NAMED = {
    *(f"{name}.sh" for name in ("common", "create", "wait", "setup", "sync_code")),
    *(f"{name}.sh" for name in ("launch", "status", "logs", "kill", "delete")),
    *("babysit.sh", "env.example", "README.md"),
}


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
    assert {path.name for path in SCRIPTS.iterdir()} >= NAMED
    for path in SHELL:
        text = path.read_text()
        assert text.startswith("#!/usr/bin/env bash\n"), path
        assert "\nset -euo pipefail\n" in text, path
        assert os.access(path, os.X_OK), path


def test_every_setting_is_explained():
    """What common.sh takes is in env.example, and nothing else."""
    source = (SCRIPTS / "common.sh").read_text()
    settings = source.split('SETTINGS="')[1].split('"')[0].split()
    text = (SCRIPTS / "env.example").read_text()
    explained = re.findall(r"^(?:# )?([A-Z_]+)=", text, re.M)
    assert sorted(explained) == sorted(settings)


def test_gke_manifest_is_yaml(tmp_path):
    yaml = pytest.importorskip("yaml")
    settings = {"BUCKET": "b", "RUN_NAME": "run.1", "IMAGE": "i", "CLAIM": "c"}
    settings |= {"TPU_SELECTOR": "tpu-v6e-slice", "TOPOLOGY": "4x4"}
    settings |= {"HOSTS": "4", "CHIPS": "4"}
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
