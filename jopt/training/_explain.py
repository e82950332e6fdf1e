"""What a config would train, without training it."""

from __future__ import annotations

from jopt import optimizers
from jopt.training._batch_sizes import batch_sizes
from jopt.training._environment_task import EnvironmentTask
from jopt.training._plan import Plan
from jopt.training._sharpness import describe
from jopt.tree import count, size_bytes


def explain(plan: Plan) -> str:
    """Parameters, rules, matrix views, shape scales, state bytes and FLOPs, as text."""
    config = plan.config
    params, kind = plan.params, plan.task.count
    per_item = plan.model.flops_per_token(config.data.seq_len)
    in_step = plan.items(config.train.batch_size)
    in_run = config.train.steps * in_step
    lines = [
        optimizers.explain(plan.optimizer),
        "",
        f"parameters        {count(params):,} ({size_bytes(params):,} bytes)",
        *_states(plan),
        f"model             {per_item:,} FLOPs per {kind[:-1]}, forward and backward",
        f"a step            {in_step:,} {kind}, {in_step * per_item / 1e9:.2f} GFLOP",
        f"the run           {config.train.steps:,} steps, {in_run:,} {kind}",
        *_gradients(plan),
        f"compute type      {config.train.compute_dtype}",
        f"mesh              {dict(plan.mesh.shape)}",
        *_adaptive(plan),
    ]
    return "\n".join(lines)


def _gradients(plan: Plan) -> list[str]:
    """Where they come from; with an algorithm over environments, of which ones."""
    config, task = plan.config, plan.task
    if not isinstance(task, EnvironmentTask):
        return [f"gradients         {describe(config)}"]
    rows = config.train.batch_size // len(task.trained)
    listed = ", ".join(map(str, task.tests)) or "none"
    return [
        f"algorithm         {config.objective.algorithm.name}, {rows} rows of each of "
        f"{len(task.trained)} environments a step",
        f"test environments {listed}",
    ]


def _states(plan: Plan) -> list[str]:
    """Bytes of the optimizer's state; with local updates what R replicas make of it."""
    state = plan.shapes.opt_state
    if plan.programs is None or plan.replicas is None:
        return [f"optimizer state   {size_bytes(state):,} bytes"]
    own, local = plan.config.local_updates, plan.replicas.local
    number, rounds = local.num_replicas, local.settings.rounds
    places = plan.mesh.shape["replica"]
    where = f"{own.mode} over {places} places"
    if places == 1:
        # Of shard_map, one after the other: a gradient that is skipped costs nothing.
        how = "together by vmap" if own.mode == "vmap" else "in turn by shard_map"
        where = f"simulated {how}, nothing is sent"
    every = f"every {rounds.effective_period} steps"
    if rounds.fragments > 1:
        every += f", {rounds.fragments} fragments"
    if rounds.delay:
        every += f", received {rounds.delay} later (overlap: {local.overlap})"
    if rounds.warmup:
        every += f", after {rounds.warmup} data-parallel ones"
    sent = plan.programs.model.round.result
    return [
        f"local updates     {own.name}: {number} replicas ({where}), a sync {every}",
        f"replicas          {size_bytes(plan.shapes.params):,} bytes of parameters, "
        f"{size_bytes(state.inner_state):,} of optimizer states, "
        f"{size_bytes(state.buffers):,} of buffers",
        f"outer             {size_bytes(state.anchor):,} bytes of anchor, "
        f"{size_bytes(state.outer_state):,} of optimizer state, "
        f"{size_bytes(state.memory):,} of what is kept back",
        f"a round sends     {sent:,.0f} bytes (model), "
        f"{sent / rounds.effective_period:,.0f} a step; data-parallel steps "
        f"{size_bytes(plan.params):,} each",
    ]


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
