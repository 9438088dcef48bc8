"""What a CUDA process in an engine's environment sees: `supervisor.pyz probe LIMIT_BYTES`.

It prints one line of JSON and keeps its context until its input ends, so that it can be found among the MPS clients.
It is a process of its own because a driver call may hang, and a context, once made, takes device memory.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

from slmpack.supervisor.attachment import ABOVE_BYTES
from slmpack.supervisor.launch import die_with

__all__ = ["run_probe"]


class CudaError(Exception):
    """A call of the driver failed."""


def run_probe(limit_bytes: int) -> int:
    """0 and a line of JSON, whose `error` says what failed if anything did."""
    die_with(os.getppid())
    try:
        answer: dict[str, object] = dict(_look(limit_bytes))
    except (OSError, AttributeError, CudaError) as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    return 0


def _look(limit_bytes: int) -> dict[str, int]:
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _check(cuda, "cuInit", ctypes.c_uint(0))
    _check(cuda, "cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
    _check(cuda, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    _check(cuda, "cuCtxSetCurrent", context)
    free, total, memory = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_void_p()
    _check(cuda, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    code = int(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(limit_bytes + ABOVE_BYTES)))
    if code == 0:
        _check(cuda, "cuMemFree_v2", memory)
    return {"freeBytes": free.value, "totalBytes": total.value, "allocationCode": code}


def _check(cuda: ctypes.CDLL, name: str, *args: object) -> None:
    if (code := int(getattr(cuda, name)(*args))) != 0:
        raise CudaError(f"{name} failed with CUDA error {code}")
