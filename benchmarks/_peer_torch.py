"""The same language model and optimizers in plain eager PyTorch, as `train_step` asks.

Started by `benchmarks/train_step.py` with the python of the peer's own environment. It
is written as a torch user would write it: fused `RMSNorm`, float32 parameters under
autocast for bfloat16, fused AdamW, and `torch.optim.Muon` for the hidden matrices. The
residual stream and the rotary tables have the compute dtype. Attention is
`scaled_dot_product_attention` or plain products and a softmax, whichever is faster: in
bfloat16 on a CPU without matrix units the plain form took half the time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from _workers import Floats, random_bytes, serve, use_cores

if __name__ == "__main__":
    use_cores(int(sys.argv[1]))

import torch
from torch import nn
from torch.nn import functional

# B batch; T positions; D embedding; H heads; K head width.

BATCHES = 8
ACTIVATIONS = {
    "relu2": lambda x: functional.relu(x).square(),
    "gelu": lambda x: functional.gelu(x, approximate="tanh"),
}
# What this model has no code for, and the settings that it stands for.
FIXED = {"qk_norm": True, "tied_head": False, "dropout": 0.0}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class RmsNorm(nn.Module):
    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Input and weight of one dtype: anything else misses the fused kernel.
        weight = self.weight.to(x.dtype)
        return functional.rms_norm(x, weight.shape, weight, self.epsilon)


class Attention(nn.Module):
    def __init__(self, dims: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        width = dims["embed_dim"]
        self.fused = True
        self.heads, self.epsilon = dims["num_heads"], dims["norm_epsilon"]
        self.q, self.k, self.v, self.o = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        cos, sin = rotary_tables(dims, dtype)
        self.register_buffer("cos_TK", cos, persistent=False)
        self.register_buffer("sin_TK", sin, persistent=False)

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        B, T, D = x_BTD.shape
        shape = (B, T, self.heads, D // self.heads)
        q_BHTK, k_BHTK, v_BHTK = (
            layer(x_BTD).view(shape).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        attend = fused_attention if self.fused else plain_attention
        mix_BHTK = attend(self.turned(q_BHTK), self.turned(k_BHTK), v_BHTK)
        return self.o(mix_BHTK.transpose(1, 2).reshape(B, T, D))

    def turned(self, x_BHTK: torch.Tensor) -> torch.Tensor:
        x_BHTK = functional.rms_norm(x_BHTK, x_BHTK.shape[-1:], eps=self.epsilon)
        first, second = x_BHTK.chunk(2, dim=-1)
        return torch.cat(
            (
                first * self.cos_TK - second * self.sin_TK,
                first * self.sin_TK + second * self.cos_TK,
            ),
            dim=-1,
        )


def fused_attention(
    q_BHTK: torch.Tensor, k_BHTK: torch.Tensor, v_BHTK: torch.Tensor
) -> torch.Tensor:
    return functional.scaled_dot_product_attention(
        q_BHTK, k_BHTK, v_BHTK, is_causal=True
    )


def plain_attention(
    q_BHTK: torch.Tensor, k_BHTK: torch.Tensor, v_BHTK: torch.Tensor
) -> torch.Tensor:
    T, K = q_BHTK.shape[-2:]
    later_TT = torch.ones(T, T, dtype=torch.bool).triu(1)
    logits_BHTT = (q_BHTK @ k_BHTK.transpose(-1, -2)) * K**-0.5
    weights_BHTT = logits_BHTT.masked_fill(later_TT, float("-inf")).softmax(-1)
    return weights_BHTT.to(v_BHTK.dtype) @ v_BHTK


def rotary_tables(
    dims: Mapping[str, Any], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    half = dims["embed_dim"] // dims["num_heads"] // 2
    positions = torch.arange(dims["seq_len"], dtype=torch.float64)
    turns = dims["rope_base"] ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = positions[:, None] * turns
    return angle.cos().to(dtype), angle.sin().to(dtype)


class Mlp(nn.Module):
    def __init__(self, dims: Mapping[str, Any]) -> None:
        super().__init__()
        width, hidden = dims["embed_dim"], dims["hidden_dim"]
        self.activation = ACTIVATIONS[dims["mlp"]]
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    def __init__(self, dims: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        self.attn_norm = RmsNorm(dims["embed_dim"], dims["norm_epsilon"])
        self.attn = Attention(dims, dtype)
        self.mlp_norm = RmsNorm(dims["embed_dim"], dims["norm_epsilon"])
        self.mlp = Mlp(dims)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.attn_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    def __init__(self, dims: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.embed = nn.Embedding(dims["vocab_size"], dims["embed_dim"])
        self.blocks = nn.ModuleList(
            Block(dims, dtype) for _ in range(dims["num_layers"])
        )
        self.norm = RmsNorm(dims["embed_dim"], dims["norm_epsilon"])
        self.head = nn.Linear(dims["embed_dim"], dims["vocab_size"], bias=False)
        self.start(dims)

    def start(self, dims: Mapping[str, Any]) -> None:
        """Normal hidden matrices; zero where a branch ends, and in the head."""
        deviation = dims["init_scale"] * dims["embed_dim"] ** -0.5
        nn.init.normal_(self.embed.weight, std=dims["embed_init_std"])
        nn.init.zeros_(self.head.weight)
        for block in self.blocks:
            for layer in (block.attn.q, block.attn.k, block.attn.v, block.mlp.up):
                nn.init.normal_(layer.weight, std=deviation)
            for layer in (block.attn.o, block.mlp.down):
                nn.init.zeros_(layer.weight)

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        x_BTD = self.embed(ids_BT).to(self.dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.head(self.norm(x_BTD))


def cross_entropy(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    logits = logits_BTV.flatten(0, 1).float()
    return functional.cross_entropy(logits, targets_BT.flatten())


def refuse_other_models(dims: Mapping[str, Any]) -> None:
    """Fails for a model that is not the one written here."""
    for key, value in FIXED.items():
        if dims[key] != value:
            raise ValueError(f"the peer has no model.{key} {dims[key]!r}")
    if dims["mlp"] not in ACTIVATIONS:
        raise ValueError(f"the peer has no model.mlp {dims['mlp']!r}")


def make_optimizers(
    model: Transformer, rules: Mapping[str, Mapping[str, Any]]
) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the matrices of the blocks and AdamW for the rest."""
    muon = [
        p
        for path, p in model.named_parameters()
        if "muon" in rules and path.startswith("blocks") and p.ndim == 2
    ]
    taken = set(map(id, muon))
    rule = rules["adamw"]
    adamw = torch.optim.AdamW(
        [p for p in model.parameters() if id(p) not in taken],
        lr=rule["learning_rate"],
        betas=(rule["b1"], rule["b2"]),
        weight_decay=rule.get("weight_decay", 1e-4),
        fused=True,
    )
    if not muon:
        return [adamw]
    rule = rules["muon"]
    return [
        torch.optim.Muon(
            muon,
            lr=rule["learning_rate"],
            momentum=rule["beta"],
            weight_decay=rule.get("weight_decay", 0.0),
            adjust_lr_fn="match_rms_adamw",
        ),
        adamw,
    ]


class TorchSide:
    """What `train_step` calls; see `_jopt_side.JoptSide` for the other one."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._runs: dict[str, Callable[[], Any]] = {}

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def choose_attention(self, choice: str) -> str:
        """Takes `fused` or `plain` attention, or the one whose step is `fastest`."""
        if choice == "fastest":
            secs = {name: self._secs_with(name) for name in ("fused", "plain")}
            choice = min(secs, key=lambda name: secs[name])
        self._set_attention(choice)
        return choice

    def _secs_with(self, attention: str) -> float:
        self._set_attention(attention)
        self.time("step", 2)
        return min(self.time("step", 1)["cpu_secs"] for _ in range(5))

    def _set_attention(self, name: str) -> None:
        self._fused = name == "fused"
        for block in self._model.blocks:
            block.attn.fused = self._fused

    def build(
        self, dims: dict[str, Any], rules: dict[str, Any], dtype: str
    ) -> dict[str, Any]:
        refuse_other_models(dims)
        torch.manual_seed(0)
        self._dims, self._rules, self._dtype = dims, rules, DTYPES[dtype]
        self._batches = [self._batch(seed) for seed in range(BATCHES)]
        self._turn = 0
        self._model = Transformer(dims, self._dtype)
        self._optimizers = make_optimizers(self._model, rules)
        return {}

    def _batch(self, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, length = self._dims["batch_size"], self._dims["seq_len"]
        data = bytearray(random_bytes(rows * (length + 1), seed))
        ids = torch.frombuffer(data, dtype=torch.uint8).long().view(rows, length + 1)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def prepare(self, piece: str) -> float:
        """Runs a piece twice (a step once); nothing is compiled."""
        self._runs[piece] = getattr(self, f"_{piece}")()
        for _ in range(1 if piece == "step" else 2):
            self._runs[piece]()
        return 0.0

    def time(self, piece: str, count: int) -> dict[str, float]:
        run = self._runs[piece]
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(count):
            run()
        return {
            "secs": (time.perf_counter() - wall) / count,
            "cpu_secs": (time.process_time() - cpu) / count,
        }

    def loss_and_norms(self, arrays: dict[str, Floats]) -> dict[str, Any]:
        """Loss of the first batch and the norm of each gradient at given parameters."""
        model = Transformer(self._dims, self._dtype)
        parameters = {jopt_path(name): p for name, p in model.named_parameters()}
        assert parameters.keys() == arrays.keys(), parameters.keys() ^ arrays.keys()
        for path, parameter in parameters.items():
            parameter.data.copy_(from_jopt(path, arrays[path], parameter))
        loss = self._loss(model, self._batches[0])
        loss.backward()
        norms = {path: p.grad.norm().item() for path, p in parameters.items()}
        return {"loss": loss.item(), "norms": norms}

    def _autocast(self) -> torch.autocast:
        half = self._dtype is torch.bfloat16
        return torch.autocast("cpu", torch.bfloat16, enabled=half)

    def _loss(self, model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        with self._autocast():
            logits = model(batch[0])
        return cross_entropy(logits, batch[1])

    def _next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        self._turn += 1
        return self._batches[self._turn % len(self._batches)]

    def _step(self) -> Callable[[], Any]:
        def run() -> float:
            loss = self._loss(self._model, self._next_batch())
            loss.backward()
            for optimizer in self._optimizers:
                optimizer.step()
                optimizer.zero_grad()
            return loss.item()

        return run

    def _update(self) -> Callable[[], Any]:
        model = Transformer(self._dims, self._dtype)
        optimizers = make_optimizers(model, self._rules)
        for parameter in model.parameters():
            parameter.grad = 0.01 * torch.randn_like(parameter)

        def run() -> None:
            for optimizer in optimizers:
                optimizer.step()

        return run

    def _forward(self) -> Callable[[], Any]:
        def run() -> float:
            with torch.no_grad():
                return self._loss(self._model, self._batches[0]).item()

        return run

    def _gradient(self) -> Callable[[], Any]:
        def run() -> None:
            self._model.zero_grad()
            self._loss(self._model, self._batches[0]).backward()

        return run

    def _attention(self) -> Callable[[], Any]:
        attention = Attention(self._dims, self._dtype)
        attention.fused = self._fused
        return self._module(attention)

    def _mlp(self) -> Callable[[], Any]:
        return self._module(Mlp(self._dims))

    def _module(self, module: nn.Module) -> Callable[[], Any]:
        """Forward and backward of a part of a block, input gradient included."""
        x_BTD = self._activations()
        dy_BTD = torch.randn_like(x_BTD)

        def run() -> None:
            module.zero_grad()
            x_BTD.grad = None
            with self._autocast():
                y_BTD = module(x_BTD)
            y_BTD.backward(dy_BTD)

        return run

    def _head(self) -> Callable[[], Any]:
        x_BTD, targets_BT = self._activations(), self._batches[0][1]

        def run() -> None:
            self._model.head.zero_grad()
            x_BTD.grad = None
            with self._autocast():
                logits = self._model.head(x_BTD)
            cross_entropy(logits, targets_BT).backward()

        return run

    def _activations(self) -> torch.Tensor:
        shape = [self._dims[key] for key in ("batch_size", "seq_len", "embed_dim")]
        return torch.randn(shape).to(self._dtype).requires_grad_()


def jopt_path(name: str) -> str:
    """The name of the same parameter in jopt.

    >>> jopt_path("blocks.0.attn.q.weight"), jopt_path("norm.weight")
    ('blocks/0/attn/q/kernel', 'norm/scale')
    """
    *path, layer, _ = name.split(".")
    kind = "scale" if "norm" in layer else "kernel"
    return "/".join([*path, layer, "embedding" if layer == "embed" else kind])


def from_jopt(path: str, floats: Floats, like: torch.Tensor) -> torch.Tensor:
    """jopt's kernels are (in, out) and keep heads apart; torch's are (out, in)."""
    values = torch.frombuffer(bytearray(floats.values), dtype=torch.float32)
    if path.endswith("kernel"):
        return values.view(like.shape[1], like.shape[0]).T
    return values.view(like.shape)


if __name__ == "__main__":
    serve(TorchSide(int(sys.argv[1])))
