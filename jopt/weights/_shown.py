"""A merge as text and as a record: what will be done, and what was found."""

from __future__ import annotations

import dataclasses
from typing import Any

from jopt.reporting import markdown_table
from jopt.weights._merge import Plan, Report
from jopt.weights._settings import Settings


def plan_text(settings: Settings, plan: Plan) -> str:
    """What will be read, merged and written, and how much memory that takes."""
    sources, base = plan.sources, plan.sources.base
    kept = [
        leaf
        for leaf in base.leaves
        if leaf not in sources.merged and leaf not in sources.state
    ]
    total = sum(leaf.nbytes for leaf in plan.leaves.values())
    lines = [
        f"base    {settings.base}",
        *(
            f"model   {task.path} ({task.name}, weight {task.weight:g})"
            for task in settings.tasks
        ),
        f"method  {settings.recipe}, scale "
        + ("by search" if settings.scale is None else f"{settings.scale:g}"),
        f"how     {plan.reducing.how}; each file is read {plan.reducing.reads}x",
        f"merged  {len(sources.merged)} of {len(base.leaves)} leaves, "
        f"{sources.entries():,} numbers, the largest leaf {_mega(sources.largest())}",
        f"out     {settings.out}: {len(plan.leaves)} arrays, {_mega(total)}",
    ]
    lines += _listed("base's", kept)
    lines += _listed(f"batch_stats ({settings.batch_stats})", sources.state)
    lines += _listed("not in all models", sources.skipped)
    lines += _listed("neither parameters nor statistics", sources.left_out)
    return "\n".join(lines)


def _listed(what: str, names: Any) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [f"{what}: {', '.join(names[:5])}{more}"]


def _mega(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"


def report_text(settings: Settings, report: Report) -> str:
    """Tables of what was found, and where the result is."""
    tasks = [
        [name, f"{norm:.5g}", f"{100 * zeros:.1f}"]
        for name, norm, zeros in zip(
            report.names, report.norms, report.sparsity, strict=True
        )
    ]
    merged = [
        ["merged", f"{report.merged_norm:.5g}", f"{100 * report.merged_sparsity:.1f}"]
    ]
    cosines = [
        [name, *(f"{x:.3f}" for x in row)]
        for name, row in zip(report.names, report.cosines, strict=True)
    ]
    parts = [
        markdown_table(["task vector", "norm", "zeros, %"], tasks + merged),
        markdown_table(["cosine", *report.names], cosines),
    ]
    if report.table:
        rows = zip(report.table["scale"], report.table["score"], strict=True)
        parts.append(
            markdown_table(
                ["scale", "score"], [[f"{s:.4g}", f"{x:.5g}"] for s, x in rows]
            )
        )
    parts += report.findings
    parts.append(f"{settings.out}: scale {report.scale:g}")
    return "\n\n".join(["", *parts])


def report_record(settings: Settings, report: Report) -> dict[str, Any]:
    """The same in full, for programs."""
    return {"out": str(settings.out), **dataclasses.asdict(report)}
