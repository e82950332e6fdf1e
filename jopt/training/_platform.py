"""What must be set before JAX touches a device, by measured jaxlib version."""

from __future__ import annotations

import ctypes
import os
from importlib import metadata
from pathlib import Path

# Measured on x86 machines (docs/performance.md). The flag makes bfloat16 matrix
# products on a CPU 2-5 times faster on jaxlib 0.12 and does nothing on 0.10. An unknown
# flag ends the process, so a version that is not listed gets none.
_CPU_FLAGS: dict[str, tuple[str, ...]] = {
    "0.12": ("--xla_cpu_experimental_onednn_custom_call=true",)
}

# Without it a GPU adds up a scatter in whatever order its threads finish, and no two
# runs are the same. Measured on an H100 with jaxlib 0.11: equal bits, no slower, half
# the compile time, since fewer kernels are tried out.
_GPU_FLAGS = ("--xla_gpu_deterministic_ops=true",)
_GPU_SERIES = ("0.10", "0.11", "0.12")  # where the flag is known

# Environment variable of glibc's malloc, number of the same setting for mallopt, value.
_Malloc = tuple[tuple[str, int, int], ...]
_KEEP: _Malloc = (
    ("MALLOC_TRIM_THRESHOLD_", -1, 2**31 - 1),
    ("MALLOC_MMAP_MAX_", -4, 0),
    ("MALLOC_ARENA_MAX", -8, 1),
)
_RETURN: _Malloc = (("MALLOC_MMAP_THRESHOLD_", -3, 2**16),)


def jaxlib_series() -> str:
    """The first two numbers of the installed jaxlib version, for example `0.12`."""
    return ".".join(metadata.version("jaxlib").split(".")[:2])


def cpu_flags() -> tuple[str, ...]:
    """The measured flags for a CPU with the installed jaxlib."""
    return _CPU_FLAGS.get(jaxlib_series(), ())


def has_gpu_plugin() -> bool:
    """Whether JAX's plugin for a GPU is installed; asks no device."""
    names = [entry.name for entry in metadata.entry_points(group="jax_plugins")]
    return any("cuda" in name or "rocm" in name for name in names)


def set_xla_flags() -> tuple[str, ...]:
    """Adds the measured flags to XLA_FLAGS; the user's own settings win.

    Must run before the first device query. Returns the flags that are in force.
    """
    own = os.environ.get("XLA_FLAGS", "")
    wanted = cpu_flags()
    if jaxlib_series() in _GPU_SERIES and has_gpu_plugin():
        wanted += _GPU_FLAGS
    added = [flag for flag in wanted if flag.split("=")[0] not in own]
    if added:
        os.environ["XLA_FLAGS"] = " ".join([*added, own]).strip()
    return tuple(os.environ.get("XLA_FLAGS", "").split())


def fast_cpu_bfloat16() -> bool:
    """Whether bfloat16 is the faster compute type on a CPU under the flags in force."""
    flags = os.environ.get("XLA_FLAGS", "")
    wanted = cpu_flags()
    return bool(wanted) and all(flag in flags for flag in wanted)


def compute_dtype(name: str, backend: str) -> str:
    """Resolves `auto`: bfloat16 where it is the faster type, else float32."""
    if name != "auto":
        return name
    fast = backend != "cpu" or fast_cpu_bfloat16()
    return "bfloat16" if fast else "float32"


def set_compilation_cache() -> Path | None:
    """Turns on JAX's persistent compilation cache where it works.

    CPU programs compiled under the flags above cannot be stored (measured: the write
    fails and warns), so the cache stays off there. A cache folder that the user has set
    is left alone. Asks JAX for its devices. Returns the folder in use, if any.
    """
    import jax

    from jopt.data import cache_folder

    chosen = jax.config.values["jax_compilation_cache_dir"]
    if chosen is not None:
        return Path(chosen)
    if jax.default_backend() == "cpu" and fast_cpu_bfloat16():
        return None
    folder = cache_folder() / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    return folder


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next allocation, for steps on a CPU.

    XLA allocates its temporary buffer anew in every step. By default glibc gives a
    large buffer back to the system when it is freed, so each step pays for mapping and
    clearing its pages again, up to a third of the time (docs/performance.md). The
    price is 30 to 70 MB of resident memory. What the user has set through MALLOC_*
    wins. Returns False where the C library has no `mallopt`, and does nothing there.
    """
    return _set_malloc(_KEEP)


def return_freed_memory() -> bool:
    """Makes glibc give freed buffers of 64 KB and more back, for bounded memory.

    By default it learns from what is freed to keep buffers of up to 32 MB, and holes
    between them stay resident: 78 of 544 MB in a merge of small matrices. What the user
    has set wins; returns False as `keep_freed_memory`.
    """
    return _set_malloc(_RETURN)


def _set_malloc(settings: _Malloc) -> bool:
    mallopt = (
        getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    )
    if mallopt is None:
        return False
    for variable, setting, value in settings:
        if variable not in os.environ:
            mallopt(setting, value)
    return True
