"""`python -m jopt network`: tables of one source each, and clear errors."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jopt.__main__ import main
from jopt.parallel import METHODS
from jopt.reporting import csv_text
from jopt.training import _local_updates
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


ROOT = Path(__file__).parents[2]
# A perceptron with any method: FILE:NAME, and NAME,KEY=VALUE of local_updates.
CONFIG = """
from jopt.training import presets


def get_config(arg):
    name, *own = arg.split(",")
    config = presets.digits()
    config.model.update(hidden_dim=8, num_layers=1)
    config.optim.order = ("own", "all")
    config.optim.rules.own = presets.rule("layers/.*/kernel", "muon", 0.02)
    config.optim.rules.all = presets.rule(".*", "optax:sgd", 0.1)
    config.train.update(batch_size=16, compute_dtype="float32")
    config.monitor.every_steps = 0
    config.local_updates.update(name=name, replicas=2, period=5)
    if name == "palsgd":
        config.local_updates.learning_rate = 0.1
    if name == "post_local_sgd":
        config.local_updates.warmup_steps = 3
    for word in own:
        key, value = word.split("=")
        config.local_updates[key] = value if key == "compressor" else float(value)
    return config
"""
COUNT = 64 * 8 + 8 + 8 * 10 + 10


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "apart.py"
    path.write_text(CONFIG)
    return lambda arg: f"{path}:{arg}"


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


def test_all_methods_of_a_config_have_a_model():
    assert set(METHODS) == {"ddp", *_local_updates.METHODS}


@pytest.mark.parametrize("name", _local_updates.METHODS)
def test_a_method_is_forecast_under_its_own_name(name, config, tmp_path):
    """Its period, and two sites with 4 bytes a parameter, in NoLoCo 8 to the other."""
    out = tmp_path / "n.csv"
    command = ["network", config(name), "--compute_secs=1", "--gbits=1"]
    assert main([*command, f"--csv={out}"]) == 0
    ddp, own = table(out)
    assert (own["method"], own["period"]) == (name, "5")
    every = 4 if name == "streaming_diloco" else 5  # two fragments, every other step
    sent = 8 * COUNT if name == "noloco" else 4 * COUNT
    assert float(own["wire_model"]) == sent / every
    latencies = 2 if name == "streaming_diloco" else 1
    skipped = 0.2 if name == "palsgd" else 0
    # Nothing is sent inside a site of one chip.
    assert float(own["secs_model"]) == pytest.approx(
        1 - skipped + (sent / 125e6 + latencies * 0.01) / every
    )
    assert float(ddp["wire_model"]) == 4 * COUNT


@pytest.mark.parametrize(
    ("arg", "sites", "wire"),
    [
        # Codes of half a byte and a scale for each of four arrays, gathered: to all the
        # others; of eight sites in parts (of 616) and back, a scale for each part.
        ("diloco,compressor=int4", 2, COUNT / 2 + 4 * 4),
        ("diloco,compressor=int8", 4, 3 * (COUNT + 4 * 4)),
        ("muloco,compressor=int8", 8, 2 * 7 / 8 * (COUNT + 6 + 4 * 8 * 4)),
    ],
)
def test_codes_of_a_config_are_in_its_forecast(arg, sites, wire, config, tmp_path):
    out = tmp_path / "n.csv"
    command = ["network", config(arg), "--compute_secs=1", "--gbits=1"]
    assert main([*command, f"--sites={sites}", f"--csv={out}"]) == 0
    row = table(out)[1]
    assert float(row["wire_model"]) == pytest.approx(wire / 5)
    assert float(row["secs_model"]) == pytest.approx(1 + (wire / 125e6 + 0.01) / 5)


def test_a_config_without_pulls_skips_no_gradient(config, tmp_path):
    out = tmp_path / "n.csv"
    command = ["network", config("palsgd,probability=0"), "--compute_secs=1"]
    assert main([*command, "--gbits=10000", f"--csv={out}"]) == 0
    assert float(table(out)[1]["secs_model"]) > 1


@pytest.mark.devices
def test_each_method_counts_its_own_programs(config, tmp_path):
    """On four sites; the model is by parameters, the rest single numbers."""
    out = tmp_path / "n.csv"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "jopt", "network"),
            config("streaming_diloco,compressor=int8"),
            *("--compile", "--sites=4", "--gbits=1", f"--csv={out}"),
            "--methods=ddp,streaming_diloco,diloco,noloco",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in table(out)}
    counted = {name: float(row["payload_hlo"]) for name, row in rows.items()}
    for name, bytes_of_step in counted.items():
        model = float(rows[name]["payload_model"])
        assert model <= bytes_of_step <= model + 24, (name, bytes_of_step, model)
    assert counted["ddp"] >= 4 * COUNT
    assert 5 * counted["diloco"] == pytest.approx(4 * COUNT + 4)
    # Both fragments every four steps: the codes of four replicas, two counts of them.
    codes = 4 * (COUNT + 4 * 4)
    assert 4 * counted["streaming_diloco"] == pytest.approx(codes + 2 * 4)


def test_loopback_lends_its_bytes_and_not_its_speed(tmp_path):
    """What `benchmarks/network.py --csv` writes where a link cannot be shaped."""
    benchmarks = str(ROOT / "benchmarks")
    sys.path.insert(0, benchmarks)
    try:
        import network as benchmark
    finally:
        sys.path.remove(benchmarks)
    found = {"payload_hlo": 4e6, "periods": {"1": (8.02e6, 0.01), "8": (1e6, 0.002)}}
    written = benchmark.rows(found, 1_000_000, None, benchmark.LOOPBACK)
    path, out = tmp_path / "measured.csv", tmp_path / "n.csv"
    path.write_text(csv_text(written))
    command = ["network", "--params=1e6", "--compute_secs=1", "--period=8"]
    command += ["--methods=ddp,local_sgd", "--gbits=1,10", f"--measured={path}"]
    assert main([*command, f"--csv={out}"]) == 0
    rows = table(out)
    assert [row["wire_measured"] for row in rows] == ["4010000.0", "500000.0"] * 2
    assert {row["secs_measured"] for row in rows} == {""}


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
