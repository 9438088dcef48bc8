"""Runs as a process of its own, by its source text: opens the GPU as a CUDA program and answers what it sees.

One JSON request a line on standard input, one JSON answer a line on standard output; standard library only, and no
module of this folder, because another user id may not read them.
  {"do": "open"}                               -> {"ok": true, "devices": 1, "free": n, "total": n, "runtime": {...}}
  {"do": "memory"}                             -> {"ok": true, "free": n, "total": n, "runtime": {...}}
  {"do": "fill", "pieces": [n, ..], "most": n} -> {"ok": true, "bytes": n, "refused": true, "error": "CUDA_ERROR_..."}
  {"do": "drop"}                               -> {"ok": true}
What CUDA refuses is answered with {"ok": false, "at": "cuInit", "error": "CUDA_ERROR_...", "code": n}.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

Json = dict[str, Any]
CUDART = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
CUDART_PLACES = ("usr/local/cuda*/lib64/libcudart.so*", "usr/local/cuda*/targets/*/lib/libcudart.so*")
"""Below /."""


class CudaError(Exception):
    """A call of the driver that did not succeed."""

    def __init__(self, *, at: str, code: int, name: str) -> None:
        super().__init__(f"{at}: {name}")
        self.at, self.code, self.name = at, code, name


class Gpu(Protocol):
    """What `serve` needs of a GPU. Every call but the constructor may raise CudaError."""

    def open(self) -> int: ...
    def memory(self) -> tuple[int, int]: ...
    def runtime_memory(self) -> Json: ...
    def take(self, size: int) -> int: ...
    def give_back(self, address: int) -> None: ...


class Driver:
    """The first visible GPU by libcuda; OSError where there is no libcuda."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")

    def open(self) -> int:
        """Make a context; the number of visible devices."""
        self._call("cuInit", ctypes.c_uint(0))
        count, device, context = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        # The primary context is the one that the CUDA runtime uses.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        return count.value

    def memory(self) -> tuple[int, int]:
        """Free and total bytes by cuMemGetInfo."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def runtime_memory(self) -> Json:
        """The same by cudaMemGetInfo, or why not: a driver without the toolkit has no libcudart."""
        library = _find_cudart()
        if library is None:
            return {"error": "no libcudart"}
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        code = library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        return {"error": f"cudaError {code}"} if code else {"free": free.value, "total": total.value}

    def take(self, size: int) -> int:
        """The address of `size` new bytes."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def give_back(self, address: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            raise CudaError(at=name.removesuffix("_v2"), code=code, name=self._name_of(code))

    def _name_of(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._cuda.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
        return (text.value or b"").decode(errors="replace") or f"error {code}"


def _find_cudart() -> ctypes.CDLL | None:
    found = [str(path) for pattern in CUDART_PLACES for path in sorted(Path("/").glob(pattern))]
    for name in (*CUDART, *found):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def serve(make: Callable[[], Gpu], requests: Iterable[str], say: Callable[[Json], None]) -> None:
    """Answer each request; `make` is called at the first one."""
    gpu: Gpu | None = None
    held: list[int] = []
    for line in requests:
        request = json.loads(line)
        try:
            gpu = gpu or make()
            say({"ok": True, **_answer(gpu, request, held)})
        except CudaError as error:
            say({"ok": False, "at": error.at, "code": error.code, "error": error.name})
        except OSError as error:
            say({"ok": False, "at": "libcuda.so.1", "code": -1, "error": str(error)})


def _answer(gpu: Gpu, request: Json, held: list[int]) -> Json:
    if request["do"] == "open":
        return {"devices": gpu.open(), **_memory(gpu)}
    if request["do"] == "memory":
        return _memory(gpu)
    if request["do"] == "fill":
        return _fill(gpu, pieces=request["pieces"], most=request["most"], held=held)
    if request["do"] == "drop":
        while held:
            gpu.give_back(held.pop())
        return {}
    raise ValueError(f"do is {request['do']!r}")


def _memory(gpu: Gpu) -> Json:
    free, total = gpu.memory()
    return {"free": free, "total": total, "runtime": gpu.runtime_memory()}


def _fill(gpu: Gpu, *, pieces: list[int], most: int, held: list[int]) -> Json:
    """Take memory in pieces of one size after another, each until one is refused or `most` bytes would be passed."""
    taken, refused, error = 0, False, ""
    for size in pieces:
        while taken + size <= most:
            try:
                held.append(gpu.take(size))
            except CudaError as why:
                refused, error = True, why.name
                break
            taken += size
    return {"bytes": taken, "refused": refused, "error": error}


def _print(answer: Json) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(Driver, iter(sys.stdin.readline, ""), _print)
