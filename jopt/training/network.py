"""`python -m jopt network CONFIG`: what a slow network would do to a run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jopt.errors import ConfigError, check_choice, print_error
from jopt.training._platform import set_xla_flags
from jopt.training._signals import EXIT_DONE, EXIT_USAGE

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from jopt.training._forecast import Case, Row, Workload
    from jopt.training._plan import Plan

GBITS = "0.1,0.3,1,3,10,30,100,400"
NOTES = """\
hlo: counted in the compiled programs of this method (--compile). model: bytes over
bandwidth plus latency, nothing overlapped. measured: on a real link (--measured).
`-`: not counted. One replica at each site; post_local_sgd after its warm-up."""


def main(argv: Sequence[str]) -> int:
    """Prints tables, and writes a CSV file and a figure where asked to."""
    args = _parser().parse_args(argv)
    try:
        print(_network(args))
    except (ConfigError, OSError) as error:
        print_error(error)
        return EXIT_USAGE
    return EXIT_DONE


def _list(of: Callable[[str], float]) -> Callable[[str], list]:
    return lambda text: [of(word) for word in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jopt network",
        description="Step time and compute utilisation of a config, or of --params, "
        "over bandwidths, sites and methods.",
    )
    add = parser.add_argument
    add("config", nargs="?", metavar="CONFIG", help="FILE[:SIZE] of a run")
    add("--params", type=float, help="their number, without a config")
    add("--tokens", type=float, help="in a step, without a config: 6 N D operations")
    add("--bytes_per_param", type=float, default=4.0, help="of a gradient on the wire")
    add("--gbits", type=_list(float), default=_list(float)(GBITS), help=GBITS)
    add("--latency_secs", type=float, help="of the slow link; by its bandwidth")
    add("--sites", type=_list(int), default=[2], metavar="N,...", help="2")
    add("--chips_per_site", type=int, default=1)
    add("--flops_per_chip", type=float, help="per second; 300e12")
    add("--compute_secs", type=float, help="of a step, measured, instead of that")
    add("--methods", metavar="NAME,...", help="ddp and the config's, or diloco")
    add("--period", type=_list(int), metavar="H,...", help="the config's, or 30")
    add("--probability", type=float, help="of palsgd; the config's, or 0.1")
    add("--compile", action="store_true", help="count bytes in each method's programs")
    add("--measured", type=Path, help="CSV of benchmarks/network.py")
    add("--csv", type=Path, help="all figures, one row for each case")
    add("--figure", type=Path, help="SVG: utilisation over bandwidth (matplotlib)")
    return parser


def _network(args: argparse.Namespace) -> str:
    set_xla_flags()
    if args.compile:
        # JAX reads them when it is imported.
        os.environ["JAX_NUM_CPU_DEVICES"] = str(args.sites[0])
        os.environ["JAX_PLATFORMS"] = "cpu"
    from jopt.training._forecast import forecast, read_measured

    config = _config(args.config)
    _fill(args, config)
    _check(args)
    plan = _plan(config)
    work = _workload(args, plan)
    rows = forecast(
        work,
        args.gbits,
        args.sites,
        _cases(args, config, plan),
        latency_secs=args.latency_secs,
        measured=None if args.measured is None else read_measured(args.measured),
    )
    lines = [_opening(args, work), *_tables(rows), "", NOTES]
    if args.csv is not None:
        _write_csv(args.csv, rows)
        lines.append(f"all figures: {args.csv}")
    if args.figure is not None:
        _draw(args.figure, rows)
        lines.append(f"figure: {args.figure}")
    return "\n".join(lines)


def _config(reference: str | None) -> ConfigDict | None:
    if reference is None:
        return None
    from jopt.training._flags import load_config

    return load_config(reference)


def _fill(args: argparse.Namespace, config: ConfigDict | None) -> None:
    """What is not asked for is that of the config's local updates, if it has some."""
    name, period, probability = "diloco", 30, 0.1
    if config is not None:
        from jopt.training._config_checks import validate
        from jopt.training._local_updates import filled, is_on

        if is_on(config):
            validate(config)
            own = filled(config)
            name, period = own.name, own.period
            probability = own.probability if name == "palsgd" else probability
    args.methods = args.methods or f"ddp,{name}"
    args.period = args.period or [period]
    args.probability = probability if args.probability is None else args.probability


def _check(args: argparse.Namespace) -> None:
    """What cannot be used together, before anything is loaded."""
    from jopt.parallel import METHODS

    for name in args.methods.split(","):
        check_choice("method", name, METHODS)
    if (args.config is None) == (args.params is None):
        raise ConfigError("pass either a CONFIG or --params, and not both")
    if args.params is not None and not (args.tokens or args.compute_secs):
        raise ConfigError("--params needs --tokens (of a step) or --compute_secs")
    positive = [*args.gbits, *args.sites, *args.period, args.chips_per_site]
    if min(positive) <= 0:
        raise ConfigError("bandwidths, sites, periods and chips are positive numbers")
    if not 0 <= args.probability < 1:
        raise ConfigError(f"--probability is {args.probability}; it lies in [0, 1)")
    if args.compile and (args.config is None or len(args.sites) > 1):
        raise ConfigError("--compile needs a CONFIG and one number of --sites")
    from jopt.reporting import has_matplotlib

    if args.figure is not None and not has_matplotlib():
        raise ConfigError("--figure needs matplotlib: pip install 'jopt[docs]'")


def _plan(config: ConfigDict | None) -> Plan | None:
    """Of the synchronous run of a config, to which methods are compared."""
    if config is None:
        return None
    from jopt.training._network_cases import plan_of

    return plan_of(config)


def _cases(
    args: argparse.Namespace, config: ConfigDict | None, plan: Plan | None
) -> list[Case]:
    """Each method with each period; those of a config as its runs would have them."""
    from jopt.training._network_cases import case_of, counted, published

    chosen = [
        (name, period)
        for name in args.methods.split(",")
        for period in ([1] if name == "ddp" else args.period)
    ]
    if config is None or plan is None:
        return [published(name, period) for name, period in chosen]
    width = args.bytes_per_param
    cases = [
        case_of(config, plan.params, *case, bytes_per_param=width) for case in chosen
    ]
    return counted(config, cases, args.sites[0]) if args.compile else cases


def _workload(args: argparse.Namespace, plan: Plan | None) -> Workload:
    from jopt.parallel import FLOPS_PER_CHIP
    from jopt.training._forecast import Workload
    from jopt.tree import count

    if plan is None:
        params, flops = args.params, 6 * args.params * (args.tokens or 0)
    else:
        params = count(plan.params)
        per_item = plan.model.flops_per_token(plan.config.data.seq_len)
        flops = plan.items(plan.config.train.batch_size) * per_item
    return Workload(
        params=params,
        step_flops=flops,
        bytes_per_param=args.bytes_per_param,
        chips_per_site=args.chips_per_site,
        flops_per_chip=args.flops_per_chip or FLOPS_PER_CHIP,
        compute_secs=args.compute_secs,
        probability=args.probability,
    )


def _opening(args: argparse.Namespace, work: Workload) -> str:
    compute = work.compute(args.sites[0])
    source = "given" if work.compute_secs is not None else "model"
    return (
        f"{args.config or 'a model'}: {work.params:,.0f} parameters, "
        f"{work.bytes_per_param:g} bytes each on the wire; a step computes for "
        f"{compute:.4g} s ({source}) on {args.sites[0]} x {work.chips_per_site} chips"
    )


def _tables(rows: Sequence[Row]) -> list[str]:
    """Bytes and seconds for one number of sites; utilisation over sites for several."""
    from jopt.reporting import markdown_table

    lines = []
    sites = list(dict.fromkeys(row.sites for row in rows))
    cases = dict.fromkeys((row.method, row.period) for row in rows)
    for method, period in cases:
        mine = [row for row in rows if (row.method, row.period) == (method, period)]
        lines += ["", f"{method}, H = {period}" if method != "ddp" else "ddp", ""]
        if len(sites) == 1:
            lines.append(markdown_table(_HEADER, map(_cells, mine)))
            continue
        header = ["Gbit/s", *(f"{count} sites (model)" for count in sites)]
        by_speed = {
            speed: [row for row in mine if row.gbits == speed]
            for speed in dict.fromkeys(row.gbits for row in mine)
        }
        table = [
            [
                f"{speed:g}",
                *(f"{row.secs_model:.3g} s, {_percent(row)}" for row in found),
            ]
            for speed, found in by_speed.items()
        ]
        lines.append(markdown_table(header, table))
    return lines


_HEADER = (
    "Gbit/s",
    "payload MB (hlo)",
    "payload MB (model)",
    "wire MB (model)",
    "wire MB (measured)",
    "step s (model)",
    "step s (measured)",
    "utilisation (model)",
)


def _cells(row: Row) -> list[str]:
    def shown(value: float | None, unit: float = 1.0) -> str:
        return "-" if value is None else f"{value / unit:.4g}"

    return [
        f"{row.gbits:g}",
        shown(row.payload_hlo, 1e6),
        shown(row.payload_model, 1e6),
        shown(row.wire_model, 1e6),
        shown(row.wire_measured, 1e6),
        shown(row.secs_model),
        shown(row.secs_measured),
        _percent(row),
    ]


def _percent(row: Row) -> str:
    return f"{100 * row.utilization_model:.1f} %"


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    from jopt.reporting import csv_text, write_text

    write_text(path, csv_text([row._asdict() for row in rows]))


def _draw(path: Path, rows: Sequence[Row]) -> None:
    from matplotlib import pyplot

    from jopt.reporting import save_svg

    figure, panel = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for case in dict.fromkeys((r.method, r.period, r.sites) for r in rows):
        mine = [r for r in rows if (r.method, r.period, r.sites) == case]
        method, period, sites = case
        name = method if method == "ddp" else f"{method}, H = {period}"
        y = [r.utilization_model for r in mine]
        panel.semilogx([r.gbits for r in mine], y, ".-", label=f"{name}, {sites} sites")
    panel.set_xlabel("Gbit/s between sites")
    panel.set_ylabel("compute utilisation (model)")
    panel.set_ylim(0, 1)
    panel.legend(fontsize=7)
    save_svg(figure, path)
