"""What a process of several is told, and what it refuses, before it joins any."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from jopt.errors import ConfigError, LostProcessError
from jopt.parallel import (
    launcher,
    make_mesh,
    shard_parameters,
    shard_state,
    sharding_rules,
    start_processes,
)
from jopt.training.main import main


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator=h:1"], "--num_processes=N, --process_id=I missing"),
        (["--process_id=0", "--num_processes=2"], "--coordinator=HOST:PORT missing"),
        (
            ["--coordinator=host", "--num_processes=2", "--process_id=0"],
            "HOST:PORT is expected",
        ),
        (
            ["--coordinator=h:1", "--num_processes=2", "--process_id=2"],
            "ids are 0 to num_processes - 1",
        ),
    ],
)
def test_flags_that_do_not_fit_are_named(flags, message, capsys):
    assert main(["--config=configs/muon_digits.py", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, "Slurm"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, None),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
        ({"JOB_COMPLETION_INDEX": "0"}, "Kubernetes"),
        ({"TPU_WORKER_ID": "0"}, "Cloud TPU"),
    ],
)
def test_launchers_are_recognised(environ, expected):
    assert launcher({"JAX_PLATFORMS": "cpu", **environ}) == expected


SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}


@pytest.mark.parametrize(
    ("secs", "error", "kind", "message"),
    [
        (
            *(0, ValueError("coordinator_address should be defined.")),
            *(ConfigError, r"Slurm started .*should be defined"),
        ),
        (
            *(0, jax.errors.JaxRuntimeError("UNKNOWN: Failed to start RPC server")),
            *(LostProcessError, r"Slurm started \(SLURM_PROCID=1.*Failed to start RPC"),
        ),
        # As JAX does on a TPU whose first host has no address.
        (
            *(1, RuntimeError("Failed to recognize coordinator address t0")),
            *(LostProcessError, r"could not join the others: .*address t0"),
        ),
    ],
    ids=["not told", "service", "in vain"],
)
def test_why_a_launched_process_stays_alone(monkeypatch, secs, error, kind, message):
    def initialize(*args, **kwargs):
        time.sleep(secs)
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr("jopt.parallel._start.explain_aborts", lambda text: None)
    with pytest.raises(kind, match=message):
        start_processes(environ=SLURM, timeout_secs=1)


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (
            *("'127.0.0.1:1', 2, 1, ", {}),
            "process 1 of 2 could not join the others at 127.0.0.1:1 within 1 s",
        ),
        (
            "",
            {
                **SLURM,
                "SLURM_JOB_ID": "1",
                "SLURM_LOCALID": "0",
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_STEP_NUM_NODES": "2",
            },
            "the process that Slurm started (SLURM_PROCID=1, SLURM_NTASKS=2) could not "
            "join the others within 1 s",
        ),
    ],
    ids=["stated", "Slurm"],
)
def test_a_process_that_waits_in_vain_says_so(arguments, environ, message):
    code = (
        f"from jopt.parallel import start_processes as s; s({arguments}timeout_secs=1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 76, done.stderr
    assert f"LostProcessError: {message}" in done.stderr
    assert "None" not in done.stderr.split("LostProcessError")[1]


PARAMS = {"embed": jnp.zeros((8, 4)), "block": {"kernel": jnp.zeros((4, 6))}}


def test_rules_by_path_decide_and_states_follow():
    mesh = make_mesh()
    table = {
        "embed": {"match": "embed", "axes": ("", "tensor")},
        "rest": {"match": ".*", "axes": (("fsdp", "tensor"),)},
    }
    rules = sharding_rules(table)
    found = shard_parameters(PARAMS, mesh, rules)
    assert found["embed"].spec == PartitionSpec(None, "tensor")
    assert found["block"]["kernel"].spec == PartitionSpec(("fsdp", "tensor"))
    state = {"mu": PARAMS, "count": jnp.zeros(())}
    placed = shard_state(state, PARAMS, mesh, rules)
    assert placed["mu"]["embed"].spec == PartitionSpec(None, "tensor")
    assert placed["count"].spec == PartitionSpec()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"match": "embed"}, r"mesh\.rules\.r\.axes is missing"),
        ({"match": "embed", "axis": (), "axes": ()}, "did you mean 'axes'"),
        ({"match": "(", "axes": ()}, "no regex"),
        ({"match": "embed", "axes": "fsdp"}, "a tuple of mesh axes"),
        ({"match": "nothing", "axes": ()}, "decides about no parameter"),
        ({"match": "embed", "axes": ("", "", "fsdp")}, "has 2 axes, the rule 3"),
        ({"match": "embed", "axes": ("fdsp",)}, "different ones of"),
        ({"match": "embed", "axes": ("fsdp", "fsdp")}, "different ones of"),
        ({"match": "embed", "axes": ("replica",)}, "leave `replica` out"),
    ],
)
def test_rules_that_do_not_fit_are_named(table, message):
    with pytest.raises(ConfigError, match=message):
        shard_parameters(PARAMS, make_mesh(), sharding_rules({"r": table}))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.mesh.tensor=2", "no rule of mesh.rules says"),
        ("--config.mesh.slow.fsdp=2", "does not divide mesh.fsdp = 1"),
    ],
)
def test_meshes_that_do_not_fit_are_named(flag, message, capsys):
    assert main(["--config=configs/muon_digits.py", flag, "--dry_run"]) == 2
    assert message in capsys.readouterr().err
