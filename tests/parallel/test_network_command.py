"""`python -m jopt network`: tables of one source each, and clear errors."""

from __future__ import annotations

import csv
import importlib.util
import re

import pytest

from jopt.__main__ import main
from jopt.training._forecast import network

# The example of the specification: 2.81 s at 10 Gbit/s on 8 sites.
EXAMPLE = (
    "network",
    "--params=1e9",
    "--compute_secs=1",
    "--bytes_per_param=2",
    "--sites=8",
    "--gbits=10,400",
)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_example_of_the_specification(tmp_path, capsys):
    assert main([*EXAMPLE, f"--csv={tmp_path / 'n.csv'}"]) == 0
    told = capsys.readouterr().out
    assert "(hlo)" in told and "(model)" in told and "(measured)" in told
    rows = {(r["gbits"], r["method"]): r for r in table(tmp_path / "n.csv")}
    assert float(rows["10.0", "ddp"]["secs_model"]) == pytest.approx(3.81)
    found = float(rows["10.0", "diloco"]["secs_model"])
    assert found == pytest.approx(1 + 2.81 / 30)
    assert float(rows["10.0", "diloco"]["utilization_model"]) == pytest.approx(
        1 / found
    )
    assert float(rows["10.0", "ddp"]["wire_model"]) == 2 * 7 / 8 * 2e9
    # What nobody counted is not filled in with a model.
    assert {r["payload_hlo"] for r in rows.values()} == {""}
    assert {r["wire_measured"] for r in rows.values()} == {""}


def test_a_config_with_local_updates_brings_its_method(capsys):
    config = "configs/palsgd_lm.py:micro"
    assert main(["network", config, "--compute_secs=1", "--gbits=10000"]) == 0
    told = capsys.readouterr().out
    assert "ddp" in told and "palsgd, H = 20" in told
    assert " 0.9 " in told, "a tenth of the steps compute no gradient"
    assert main(["network", config, "--compute_secs=1", "--period=7"]) == 0
    assert "palsgd, H = 7" in capsys.readouterr().out


def test_measurements_keep_their_column(tmp_path):
    path = tmp_path / "measured.csv"
    path.write_text(
        "gbits,method,sites,period,wire_bytes,step_secs\n10,ddp,8,1,3.6e9,4.1\n"
    )
    out = tmp_path / "n.csv"
    assert main([*EXAMPLE, f"--measured={path}", f"--csv={out}"]) == 0
    rows = {(r["gbits"], r["method"]): r for r in table(out)}
    assert rows["10.0", "ddp"]["wire_measured"] == "3600000000.0"
    assert rows["10.0", "ddp"]["secs_measured"] == "4.1"
    assert rows["400.0", "ddp"]["secs_measured"] == ""


def test_several_sites_make_a_table_of_utilisation(tmp_path, capsys):
    assert main([*EXAMPLE, "--sites=2,64", "--methods=ddp,palsgd"]) == 0
    told = capsys.readouterr().out
    assert "2 sites (model)" in told and "64 sites (model)" in told


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib"
)
def test_a_curve(tmp_path):
    assert main([*EXAMPLE, f"--figure={tmp_path / 'n.svg'}"]) == 0
    assert "compute utilisation (model)" in (tmp_path / "n.svg").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["network"], "either a CONFIG or --params"),
        (["network", "--params=1e9"], "--tokens"),
        ([*EXAMPLE, "--methods=dillco"], "did you mean 'diloco'"),
        ([*EXAMPLE, "--gbits=0"], "positive"),
        ([*EXAMPLE, "--compile"], "needs a CONFIG"),
        ([*EXAMPLE, "--measured=none.csv"], "benchmarks/network.py"),
        ([*EXAMPLE, "--probability=1"], r"lies in \[0, 1\)"),
    ],
)
def test_what_cannot_be_used_is_named(flags, message, capsys):
    assert main(flags) == 2
    assert re.search(message, capsys.readouterr().err)


def test_latency_follows_the_archetypes():
    found = [network(g).latency_secs for g in (0.1, 10, 99, 100, 400, 800)]
    assert found == [1e-2, 1e-2, 1e-2, 1e-3, 1e-4, 1e-4]
