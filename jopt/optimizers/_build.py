"""From a run's config to one optimizer for all parameters."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import NamedSharding

from jopt.errors import ConfigError, JoptWarning
from jopt.matrix import AttentionSpec
from jopt.optimizers._catalog import arguments
from jopt.optimizers._config import entries, read
from jopt.optimizers._rules import Rule, assign, read_rules, split_heads
from jopt.optimizers._schedules import is_learning_rate, schedule_from_config
from jopt.optimizers._table import Row, make_table
from jopt.optimizers._whole_tree import (
    WHERE,
    names_optimizer,
    read_optimizer,
    unknown_keys,
)
from jopt.transforms import (
    MatrixSpecs,
    clip_by_global_norm,
    qk_clip,
    read_specs,
    skip_nonfinite,
    skip_spikes,
)
from jopt.tree import PyTree, map_named, named_leaves

# An argument that is a table with one of these is a schedule.
SCHEDULE_KEYS = frozenset(inspect.signature(optax.linear_schedule).parameters)


class Optimizer(NamedTuple):
    """What `build` makes.

    Attributes:
        tx: the transformation for the whole tree.
        needs: extra args that `tx.update` is to be given; any others are optional.
        table: one row for each parameter, for `explain`.
    """

    tx: optax.GradientTransformationExtraArgs
    needs: frozenset[str]
    table: tuple[Row, ...]


def build(
    config: Any,
    params: PyTree,
    *,
    matrix_specs: MatrixSpecs = None,
    attention: Mapping[str, AttentionSpec] | None = None,
) -> Optimizer:
    """One optimizer for all of `params`, from the rules of a run's config.

    Rules are tried in `config.optim.order`; the first whose `match` is found in a
    parameter's path (`re.search`; anchor with ^ and $ where that matters) takes it. A
    rule has `match`, `name`, `learning_rate` and any keyword argument of the optimizer
    that it names; `name` is a key of `CATALOG` or `package.module:function`. `muon` in
    a rule is the spectral chain on exactly the parameters that the rule takes; with
    `per_head=True` each head of theirs is a matrix of its own, where the model declares
    an axis of heads, and with `per_head=(4, 2, 2)` the blocks of a fused output hold so
    many. An argument that is a table with `init_value`, `end_value` and
    `transition_steps` is that `optax.linear_schedule`, such as a warm-up of `beta`; any
    other table is passed on as it is (`control`).
    Every learning rate, also one with a longer name such as `sign_learning_rate`, is
    multiplied by the factor of `schedule_from_config(config.train)`, at the number of
    updates made; with `config.train.adaptive_batch.enabled` by the extra argument
    `learning_rate_factor` instead, a float32 scalar, since updates then differ in size.
    `config.optim.whole_tree.optimizer`, a table with `name` and arguments, is one
    optimizer instead of rules, of those whose step depends on all parameters together
    (`Entry.whole_tree`), or a `package.module:function`. These set their own step size:
    a schedule beside them is a fault.
    `config.optim.whole_tree.clip` is the largest norm of the whole gradient, before the
    rules. `whole_tree.qk_clip` is the threshold of `jopt.qk_clip`, after the rules.
    `jopt.skip_nonfinite` wraps all of it with `whole_tree.skip_nonfinite`, and
    `jopt.skip_spikes` with a `whole_tree.spike_zscore`.

    Args:
        config: the whole run config: an `ml_collections.ConfigDict`, or mappings or
            objects with the same keys. Only `optim` and `train` are read. A value of
            None, which is how a placeholder reads, counts as absent. Numbers may be
            traced.
        params: the parameters, or their shapes and dtypes; no value is read and no
            device is used. Where all have a `NamedSharding` (arrays, or
            `jax.ShapeDtypeStruct` with one), optimizers that take `shardings` get them.
        matrix_specs: as in `scale_by_orthogonalization`, usually from the model.
        attention: the layers that `qk_clip` watches, as `jopt.models.Model.attention`
            declares them.

    Fails: one `ConfigError` with every fault: a parameter without a rule or a rule
    without a parameter, an unknown optimizer or key, a spectral rule on a parameter
    that is an embedding, head, norm or bias by its path (unless it has
    `allow_any_path=True`) or that is no matrix, a schedule that does not fit.
    Warns: `JoptWarning` if the norm is clipped before optimizers that ignore scale, and
    if `qk_clip` has layers whose queries and keys are normed.

    >>> import jax, jax.numpy as jnp
    >>> rules = {
    ...     "matrix": {"match": "kernel", "name": "muon", "learning_rate": 0.02},
    ...     "rest": {"match": ".*", "name": "adamw", "learning_rate": 3e-4},
    ... }
    >>> config = {"optim": {"order": ("matrix", "rest"), "rules": rules}}
    >>> params = {"kernel": jnp.ones((4, 2)), "bias": jnp.ones(2)}
    >>> optimizer = build(config, params)
    >>> [(row.path, row.rule) for row in optimizer.table]
    [('bias', 'rest'), ('kernel', 'matrix')]
    """
    faults: list[str] = []
    leaves = named_leaves(params)
    faults.extend(unknown_keys(config))
    threshold = read(config, "optim.whole_tree.qk_clip")
    if threshold is not None and not attention:
        faults.append(
            "optim.whole_tree.qk_clip needs a model that declares its attention layers "
            "(jopt.models.Model.attention)"
        )
    declared, wrong = read_specs(params, matrix_specs)
    faults.extend(wrong)
    whole = None
    if names_optimizer(config):
        whole = read_optimizer(config, faults)
        rules, complete = ([], False) if whole is None else ([whole], True)
    else:
        rules = read_rules(read(config, "optim"), faults)
        complete = len(rules) == len(entries(read(config, "optim.rules")))
    assigned = assign(rules, leaves, declared, faults, complete=complete)
    declared = split_heads(assigned, leaves, declared, faults)
    try:
        schedule = schedule_from_config(read(config, "train"))
    except ConfigError as error:
        faults.append(str(error))
    if faults:
        raise ConfigError(_listed(faults))

    clip = read(config, "optim.whole_tree.clip")
    if clip is not None:
        _warn_clip(rules)
    shared = {"matrix_specs": declared, "shardings": _shardings(leaves)}
    adaptive = bool(read(config, "train.adaptive_batch.enabled", False))
    given = adaptive and whole is None
    make = _given_factor if given else _transform
    transforms = {rule.name: make(rule, schedule, shared, faults) for rule in rules}
    if faults:
        raise ConfigError(_listed(faults))
    if whole is not None:
        tx = optax.with_extra_args_support(transforms[whole.name])
    else:
        tx = optax.partition(
            transforms,
            map_named(lambda path, _: assigned[path].name, params),
            mask_compatible_extra_args=True,
        )
    if clip is not None and (whole is None or "clip" not in whole.arguments):
        tx = optax.chain(clip_by_global_norm(clip), tx)
    needs = frozenset().union(*(rule.needs for rule in rules))
    if given:
        needs |= {"learning_rate_factor"}
    if threshold is not None:
        tx = optax.chain(tx, _logits_clipped(threshold, attention or {}))
        needs |= {"max_attention_logits"}
    spike_zscore = read(config, "optim.whole_tree.spike_zscore")
    if spike_zscore is not None or read(config, "optim.whole_tree.skip_nonfinite"):
        plain = spike_zscore is None
        tx = skip_nonfinite(tx) if plain else skip_spikes(tx, spike_zscore)
        needs |= {"value"}
    table = make_table(params, assigned, transforms, declared)
    return Optimizer(tx, needs, table)


def _listed(faults: list[str]) -> str:
    if len(faults) == 1:
        return faults[0]
    return f"{len(faults)} faults in the config:\n- " + "\n- ".join(faults)


def _warn_clip(rules: list[Rule]) -> None:
    free = [
        f"{rule.name} ({rule.optimizer})" for rule in rules if rule.entry.scale_free
    ]
    if not free:
        return
    others = [
        f"{rule.name} ({rule.optimizer})" for rule in rules if not rule.entry.scale_free
    ]
    warnings.warn(
        f"optim.whole_tree.clip has little effect on {', '.join(free)}: the update "
        "there does not depend on the gradient's scale, so clipping only re-weights "
        "steps inside the momentum. "
        + (f"It acts on {', '.join(others)}." if others else "No rule depends on it."),
        JoptWarning,
        stacklevel=3,
    )


def _logits_clipped(
    threshold: Any, attention: Mapping[str, AttentionSpec]
) -> optax.GradientTransformation:
    normed = [name for name, layer in attention.items() if layer.normed]
    if normed:
        warnings.warn(
            f"optim.whole_tree.qk_clip does nothing in {len(normed)} of "
            f"{len(attention)} attention layers ({normed[0]}, ...): they divide "
            "queries and keys by their norms, so the scale of the weights has no "
            "effect on logits; set model.qk_norm=False or leave qk_clip out",
            JoptWarning,
            stacklevel=3,
        )
    return qk_clip(threshold, attention=attention)


def _shardings(leaves: Mapping[str, Any]) -> dict[str, NamedSharding] | None:
    """Where the parameters lie, if each of them lies on a mesh."""
    found = {path: getattr(leaf, "sharding", None) for path, leaf in leaves.items()}
    on_mesh = {p: at for p, at in found.items() if isinstance(at, NamedSharding)}
    return on_mesh if on_mesh and len(on_mesh) == len(found) else None


def _transform(
    rule: Rule, schedule: optax.Schedule, shared: Mapping[str, Any], faults: list[str]
) -> optax.GradientTransformation:
    keywords = dict(rule.arguments)
    for name in keywords:
        if is_learning_rate(name):
            keywords[name] = _following(schedule, keywords[name])
    known, _ = arguments(rule.entry)
    try:
        keywords = {name: _scheduled(value) for name, value in keywords.items()}
        keywords |= {name: value for name, value in shared.items() if name in known}
        return rule.entry.constructor(**keywords)
    except (TypeError, ValueError) as error:
        where = WHERE if rule.entry.whole_tree else f"optim.rules.{rule.name}"
        faults.append(f"{where} ({rule.optimizer}): {error}")
        return optax.identity()


def _given_factor(
    rule: Rule, schedule: optax.Schedule, shared: Mapping[str, Any], faults: list[str]
) -> optax.GradientTransformationExtraArgs:
    """`_transform` whose factor is an extra argument of each update.

    It is made anew in every trace, around the factor: a schedule is the one way in that
    all optimizers have. The state is that of `_transform`.
    """

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        learning_rate_factor: jax.Array,
        **extra_args: Any,
    ) -> tuple[PyTree, PyTree]:
        tx = _transform(rule, lambda _: learning_rate_factor, shared, [])
        inner = optax.with_extra_args_support(tx)
        return inner.update(updates, state, params, **extra_args)

    init = _transform(rule, schedule, shared, faults).init
    return optax.GradientTransformationExtraArgs(init, update)


def _following(schedule: optax.Schedule, peak: Any) -> optax.Schedule:
    return lambda step: peak * schedule(step)


def _scheduled(value: Any) -> Any:
    if not hasattr(value, "items"):
        return value
    table = entries(value)
    return optax.linear_schedule(**table) if SCHEDULE_KEYS & table.keys() else table
