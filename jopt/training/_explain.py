"""What a config would train, without training it."""

from __future__ import annotations

from jopt import optimizers
from jopt.training._batch_sizes import batch_sizes
from jopt.training._plan import Plan
from jopt.training._sharpness import describe
from jopt.tree import count, size_bytes


def explain(plan: Plan) -> str:
    """Parameters, rules, matrix views, shape scales, state bytes and FLOPs, as text."""
    config = plan.config
    params, kind = plan.shapes.params, plan.task.count
    per_item = plan.model.flops_per_token(config.data.seq_len)
    in_step = plan.items(config.train.batch_size)
    in_run = config.train.steps * in_step
    lines = [
        optimizers.explain(plan.optimizer),
        "",
        f"parameters        {count(params):,} ({size_bytes(params):,} bytes)",
        f"optimizer state   {size_bytes(plan.shapes.opt_state):,} bytes",
        f"model             {per_item:,} FLOPs per {kind[:-1]}, forward and backward",
        f"a step            {in_step:,} {kind}, {in_step * per_item / 1e9:.2f} GFLOP",
        f"the run           {config.train.steps:,} steps, {in_run:,} {kind}",
        f"gradients         {describe(config)}",
        f"compute type      {config.train.compute_dtype}",
        f"mesh              {dict(plan.mesh.shape)}",
        *_adaptive(plan),
    ]
    return "\n".join(lines)


def _adaptive(plan: Plan) -> list[str]:
    """What there is to say about a batch that is not fixed."""
    if plan.adaptive is None:
        return []
    config, gauge = plan.config, plan.adaptive.gauge
    small, large = batch_sizes(config)[0], batch_sizes(config)[-1]
    paths = ", ".join(f"{name} ({len(x)})" for name, x in gauge.paths.items())
    return [
        f"adaptive batch    {config.train.batch_size} rows at first, {small} to "
        f"{large}, so {config.train.steps * config.train.batch_size // large:,} steps "
        "or more",
        f"noise scale       {gauge.main} decides; parameters measured: {paths}",
    ]
