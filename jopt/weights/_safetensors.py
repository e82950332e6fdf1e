"""`.safetensors` files, single and sharded, in and out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jopt.errors import ConfigError, DamagedCheckpointError
from jopt.weights._weights import Leaf

SINGLE = ".safetensors"
INDEX = ".safetensors.index.json"
_CODES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "C64": "complex64",
    "BOOL": "bool",
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}
# Types by name, and the format's names of types.
DTYPES = {
    name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    for name in _CODES.values()
}
FLOATS = {name: dtype for name, dtype in DTYPES.items() if "float" in name}
_TYPE_OF = {code: DTYPES[name] for code, name in _CODES.items()}
CODE_OF = {dtype: code for code, dtype in _TYPE_OF.items()}


class SafetensorsWeights:
    """One file, or several with an index. Closing it closes them."""

    def __init__(self, path: Path, files: tuple[Path, ...]) -> None:
        self.path = path
        self.files = files
        self._stack = ExitStack()
        self._of: dict[str, Any] = {}
        self.leaves: dict[str, Leaf] = {}
        self.metadata: dict[str, str] = {}
        with ExitStack() as until_opened:
            until_opened.callback(self.close)
            for file in files:
                if not file.name.endswith(".json"):
                    self._open(file)
            until_opened.pop_all()

    def _open(self, file: Path) -> None:
        with _named_damage(file):
            # Read, not mapped: the pages of a mapped file count as resident memory.
            opened = self._stack.enter_context(
                _library().safe_open(file, framework="np", backend="pread")
            )
            self.metadata |= opened.metadata() or {}
            for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                if name in self._of:
                    raise DamagedCheckpointError(f"{file}: {name} is in two shards")
                self._of[name] = opened
                self.leaves[name] = _leaf(file, name, opened.get_slice(name))

    def read(self, name: str) -> np.ndarray:
        with _named_damage(self.path):
            return self._of[name].get_tensor(name)

    def close(self) -> None:
        self._stack.close()


def open_safetensors(file: Path, path: Path | None = None) -> SafetensorsWeights:
    """Opens a file, or the shards that an index lists.

    Args:
        file: `.safetensors` or `.safetensors.index.json`.
        path: what the user gave, if it was the folder of the index.
    """
    path = path or file
    if not file.name.endswith(INDEX):
        return SafetensorsWeights(path, (file,))
    places = _weight_map(file)
    shards = sorted({file.parent / shard for shard in places.values()})
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise DamagedCheckpointError(f"{file} lists {missing}, which are not there")
    opened = SafetensorsWeights(path, (file, *shards))
    if different := sorted(places.keys() ^ opened.leaves.keys()):
        opened.close()
        raise DamagedCheckpointError(
            f"{file} and its shards do not hold the same names: {different[:5]}"
        )
    return opened


def _weight_map(index: Path) -> dict[str, str]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        # Names of files beside the index; another place could be anything.
        sound = all(Path(shard).name == shard for shard in places.values())
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise DamagedCheckpointError(
            f"{index} is damaged: a JSON object with weight_map (name -> file beside "
            "it) is expected"
        )
    return places


def _leaf(file: Path, name: str, piece: Any) -> Leaf:
    code = piece.get_dtype()
    if code not in _TYPE_OF:
        raise ConfigError(
            f"{file}: {name} has type {code}; known are {', '.join(_TYPE_OF)}. Convert "
            "it first"
        )
    return Leaf(tuple(piece.get_shape()), _TYPE_OF[code])


class SafetensorsWriter:
    """Writes one file array by array, so that one array at a time is in memory.

    The library's own writer takes all arrays at once. The format is an eight-byte
    length, a JSON header padded to eight bytes, and the bytes of the arrays in a row.
    """

    def __init__(
        self, path: Path, leaves: Mapping[str, Leaf], metadata: Mapping[str, str]
    ) -> None:
        # Wider types first, as the library does it, so that arrays are aligned.
        self.order = sorted(leaves, key=lambda name: -leaves[name].dtype.itemsize)
        self._leaves = leaves
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        self._begin: dict[str, int] = {}
        end = 0
        for name in self.order:
            self._begin[name] = end
            end += leaves[name].nbytes
            header[name] = {
                "dtype": CODE_OF[leaves[name].dtype],
                "shape": list(leaves[name].shape),
                "data_offsets": [self._begin[name], end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._path = path
        self._data = 8 + len(text)
        with path.open("xb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(self._data + end)

    def write(self, name: str, array: np.ndarray) -> None:
        """Puts an array where the header says it is; the order is free."""
        leaf = self._leaves[name]
        if (array.shape, array.dtype) != leaf:
            raise ConfigError(
                f"{name} was to be {leaf.dtype} {leaf.shape} and is {array.dtype} "
                f"{array.shape}"
            )
        with self._path.open("r+b") as file:
            file.seek(self._data + self._begin[name])
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def close(self) -> None:
        """Returns when the bytes are on the disk."""
        with self._path.open("rb") as file:
            os.fsync(file.fileno())


class ShardedWriter:
    """Writes a folder of shards and their index, in the order of the names."""

    def __init__(
        self,
        folder: Path,
        leaves: Mapping[str, Leaf],
        metadata: Mapping[str, str],
        shard_bytes: int,
    ) -> None:
        folder.mkdir()
        shards = list(_shards(leaves, shard_bytes))
        self._writers: dict[str, SafetensorsWriter] = {}
        self._open: list[SafetensorsWriter] = []
        places: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            writer = SafetensorsWriter(
                folder / file, {name: leaves[name] for name in names}, metadata
            )
            self._open.append(writer)
            self._writers |= dict.fromkeys(names, writer)
            places |= dict.fromkeys(names, file)
        total = sum(leaf.nbytes for leaf in leaves.values())
        index = {"metadata": {"total_size": total, **metadata}, "weight_map": places}
        (folder / f"model{INDEX}").write_text(json.dumps(index, indent=2) + "\n")

    def write(self, name: str, array: np.ndarray) -> None:
        self._writers[name].write(name, array)

    def close(self) -> None:
        for writer in self._open:
            writer.close()


def _shards(leaves: Mapping[str, Leaf], shard_bytes: int) -> Iterator[list[str]]:
    """Names in a row whose arrays fit; one that is larger alone has its own."""
    names: list[str] = []
    size = 0
    for name, leaf in leaves.items():
        if names and size + leaf.nbytes > shard_bytes:
            yield names
            names, size = [], 0
        names.append(name)
        size += leaf.nbytes
    yield names


def missing() -> str | None:
    """What to install, where the library is not there."""
    try:
        _library()
    except ConfigError as error:
        return str(error)
    return None


def _library() -> Any:
    try:
        import safetensors
    except ImportError:
        raise ConfigError(
            ".safetensors files need the package safetensors: pip install 'jopt[merge]'"
        ) from None
    return safetensors


@contextmanager
def _named_damage(file: Path) -> Iterator[None]:
    """The library's errors as ours, with the file."""
    try:
        yield
    except _library().SafetensorError as error:
        raise DamagedCheckpointError(
            f"{file} is damaged, or no .safetensors file: {error}"
        ) from None
