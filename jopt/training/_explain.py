"""What a config would train, without training it."""

from __future__ import annotations

from jopt import optimizers
from jopt.training._plan import Plan
from jopt.tree import count, size_bytes


def explain(plan: Plan) -> str:
    """Parameters, rules, matrix views, shape scales, state bytes and FLOPs, as text."""
    config = plan.config
    params, seq_len = plan.shapes.params, config.data.seq_len
    tokens = config.train.batch_size * seq_len
    per_token = plan.model.flops_per_token(seq_len)
    lines = [
        optimizers.explain(plan.optimizer),
        "",
        f"parameters        {count(params):,} ({size_bytes(params):,} bytes)",
        f"optimizer state   {size_bytes(plan.shapes.opt_state):,} bytes",
        f"model             {per_token:,} FLOPs per token, forward and backward",
        f"a step            {tokens:,} tokens, {tokens * per_token / 1e9:.2f} GFLOP",
        f"the run           {config.train.steps:,} steps, "
        f"{config.train.steps * tokens:,} tokens",
        f"compute type      {config.train.compute_dtype}",
        f"mesh              {dict(plan.mesh.shape)}",
    ]
    return "\n".join(lines)
