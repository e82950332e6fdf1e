"""jopt's training step in a process of its own, as `train_step` asks.

The step is the one that `train.py` runs: the plan of a config, jitted, its state
donated. Compilation is always cold: the persistent cache stays off.
"""

from __future__ import annotations

import dataclasses
import platform
import runpy
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from _workers import Floats, random_bytes, serve, use_cores

if __name__ == "__main__":
    use_cores(int(sys.argv[1]))

from jopt.training._platform import keep_freed_memory, set_xla_flags

XLA_FLAGS = set_xla_flags()  # before JAX can ask for a device
keep_freed_memory()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from flax import nnx  # noqa: E402

from jopt import objectives  # noqa: E402
from jopt.models import Taps, TransformerConfig  # noqa: E402
from jopt.models._settings import read_settings  # noqa: E402
from jopt.models._transformer import Attention, Mlp  # noqa: E402
from jopt.objectives._cross_entropy import cross_entropy  # noqa: E402
from jopt.training._plan import make_plan, resolve  # noqa: E402
from jopt.tree import named_leaves  # noqa: E402

# B batch; T positions; D embedding.

ROOT = Path(__file__).parents[1]
BATCHES = 8

Run = Callable[[], Any]


class JoptSide:
    """What `train_step` calls. The other side has the same methods.

    A piece is `step` (all of it), `update` (the optimizer alone), or one that
    `--profile` shows. `prepare` compiles it and `time` runs it.
    """

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    def versions(self) -> dict[str, str]:
        return {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": metadata.version("jaxlib"),
            "flags": " ".join(XLA_FLAGS) or "none",
        }

    def build(
        self, optimizer: str, size: str, overrides: dict[str, Any]
    ) -> dict[str, Any]:
        """Makes the plan of `configs/<optimizer>_lm.py:<size>`, and its first state.

        Returns what the other side needs to build the same: `dims`, `rules`, `dtype`.
        """
        config = get_config(optimizer, size)
        config.update_from_flattened_dict(overrides)
        self._plan = make_plan(resolve(config))
        config = self._plan.config
        self._model_config = read_settings(TransformerConfig, config.model)
        self._state = self._plan.init()
        self._params = _copy(self._state.params)  # the step takes the state's own
        self._batches = [
            random_batch(config.train.batch_size, config.data.seq_len, seed)
            for seed in range(BATCHES)
        ]
        self._turn = 0
        dims = dataclasses.asdict(self._model_config) | {
            "hidden_dim": self._model_config.hidden_dim,
            "batch_size": config.train.batch_size,
            "seq_len": config.data.seq_len,
        }
        rules = {rule.name: rule.to_dict() for rule in config.optim.rules.values()}
        return {"dims": dims, "rules": rules, "dtype": config.train.compute_dtype}

    def prepare(self, piece: str) -> float:
        """Compiles a piece and runs it twice (a step once); seconds of compilation."""
        self._compile_secs = 0.0
        self._runs[piece] = getattr(self, f"_{piece}")()
        for _ in range(1 if piece == "step" else 2):
            jax.block_until_ready(self._runs[piece]())
        return self._compile_secs

    def time(self, piece: str, count: int) -> dict[str, float]:
        """Wall and processor seconds of one execution, a mean over `count`."""
        run, wait = self._runs[piece], piece not in ("step", "update")
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(count):
            result = run()
            if wait:  # else each execution waits for the one before anyhow
                jax.block_until_ready(result)
        jax.block_until_ready(result)
        return {
            "secs": (time.perf_counter() - wall) / count,
            "cpu_secs": (time.process_time() - cpu) / count,
        }

    def parameters(self) -> dict[str, Floats]:
        """Parameters away from their start, where most gradients are zero."""
        return {
            path: Floats(leaf.shape, np.asarray(leaf, np.float32).tobytes())
            for path, leaf in named_leaves(self._away()).items()
        }

    def loss_and_norms(self) -> dict[str, Any]:
        """Loss of the first batch and the norm of each gradient at `parameters()`."""
        loss, grads = jax.jit(self._gradient_function())(
            self._away(), self._plan.put(self._batches[0])
        )
        norms = {
            path: float(np.linalg.norm(np.asarray(leaf)))
            for path, leaf in named_leaves(grads).items()
        }
        return {"loss": float(loss), "norms": norms}

    def _away(self) -> Any:
        random = np.random.default_rng(1)

        def moved(leaf: jax.Array) -> jax.Array:
            noise = 0.05 * random.standard_normal(leaf.shape)
            return jnp.asarray(np.asarray(leaf) + noise, jnp.float32)

        return jax.tree.map(moved, self._params)

    def _compiled(self, function: Any, *arguments: Any) -> Any:
        jitted = function if hasattr(function, "lower") else jax.jit(function)
        begin = time.perf_counter()
        compiled = jitted.lower(*arguments).compile()
        self._compile_secs += time.perf_counter() - begin
        return compiled

    def _step(self) -> Run:
        step = self._compiled(
            self._plan.step, self._state, self._plan.put(self._batches[0])
        )

        def run() -> Any:
            batch = self._plan.put(self._batches[self._turn % BATCHES])
            self._turn += 1
            self._state, metrics = step(self._state, batch)
            return metrics

        return run

    def _update(self) -> Run:
        optimizer = self._plan.optimizer
        if optimizer.needs:
            raise ValueError(f"the update alone cannot be given {optimizer.needs}")

        def update(state: Any, grads: Any) -> Any:
            params, opt_state = state
            updates, opt_state = optimizer.tx.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        params = _copy(self._params)
        grads = self._away()
        state = (params, jax.jit(optimizer.tx.init)(params))
        compiled = self._compiled(jax.jit(update, donate_argnums=0), state, grads)

        def run() -> Any:
            nonlocal state
            state = compiled(state, grads)
            return state

        return run

    def _objective(self) -> Callable[..., Any]:
        objective = objectives.language_model(self._plan.model)
        key = jax.random.key(0)
        return lambda params, batch: objective(params, {}, batch, key)[0]

    def _gradient_function(self) -> Callable[..., Any]:
        return jax.value_and_grad(self._objective())

    def _forward(self) -> Run:
        return self._fixed(self._objective(), *self._params_and_batch())

    def _gradient(self) -> Run:
        return self._fixed(self._gradient_function(), *self._params_and_batch())

    def _params_and_batch(self) -> tuple[Any, Any]:
        return self._params, self._plan.put(self._batches[0])

    def _attention(self) -> Run:
        return self._module(Attention(self._model_config, nnx.Rngs(0)))

    def _mlp(self) -> Run:
        return self._module(Mlp(self._model_config, nnx.Rngs(0)))

    def _module(self, module: nnx.Module) -> Run:
        """Forward and backward of a part of a block, input gradient included."""
        graph, params = nnx.split(module)
        x_BTD = self._activations(0)

        def both_ways(params: Any, x_BTD: jax.Array, dy_BTD: jax.Array) -> Any:
            def call(params: Any, x_BTD: jax.Array) -> jax.Array:
                return nnx.merge(graph, params)(x_BTD, Taps())

            y_BTD, backward = jax.vjp(call, params, x_BTD)
            return y_BTD, backward(dy_BTD)

        return self._fixed(both_ways, params, x_BTD, self._activations(1))

    def _head(self) -> Run:
        """Logits and loss, and the gradients of kernel and input."""
        x_BTD = self._activations(0)
        targets_BT = jnp.asarray(self._batches[0]["targets"])
        width, vocab = self._model_config.embed_dim, self._model_config.vocab_size
        kernel_DV = jnp.zeros((width, vocab), jnp.float32)

        def loss(kernel_DV: jax.Array, x_BTD: jax.Array) -> jax.Array:
            return cross_entropy(
                x_BTD @ kernel_DV.astype(x_BTD.dtype), targets_BT
            ).mean()

        return self._fixed(jax.value_and_grad(loss, argnums=(0, 1)), kernel_DV, x_BTD)

    def _fixed(self, function: Any, *arguments: Any) -> Run:
        compiled = self._compiled(function, *arguments)
        return lambda: compiled(*arguments)

    def _activations(self, seed: int) -> jax.Array:
        config = self._plan.config
        shape = (
            config.train.batch_size,
            config.data.seq_len,
            self._model_config.embed_dim,
        )
        dtype = jnp.dtype(self._model_config.compute_dtype)
        return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def _copy(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def get_config(optimizer: str, size: str) -> Any:
    """The config of a run, from `configs/<optimizer>_lm.py`."""
    path = ROOT / "configs" / f"{optimizer}_lm.py"
    return runpy.run_path(str(path))["get_config"](size)


def random_batch(rows: int, seq_len: int, seed: int) -> dict[str, np.ndarray]:
    """Random bytes in the form of a training batch."""
    data = random_bytes(rows * (seq_len + 1), seed)
    ids = np.frombuffer(data, np.uint8).reshape(rows, seq_len + 1).astype(np.int32)
    return {
        "inputs": ids[:, :-1],
        "targets": ids[:, 1:],
        "mask": np.ones((rows, seq_len), np.float32),
        "domain": np.zeros(rows, np.int32),
    }


if __name__ == "__main__":
    serve(JoptSide())
