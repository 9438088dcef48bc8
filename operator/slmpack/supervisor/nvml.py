"""The GPU's memory as NVML reports it: `supervisor.pyz nvml` prints one line of JSON.

A process of its own, because a call of the driver may hang.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

from slmpack.supervisor.launch import die_with

__all__ = ["run_nvml"]

NOT_AVAILABLE = 2**64 - 1
NAME_BYTES = 96
MOST_PROCESSES = 1024
"""nvml.h: NVML_VALUE_NOT_AVAILABLE, NVML_DEVICE_UUID_V2_BUFFER_SIZE."""


class NvmlError(Exception):
    """A call of the library failed."""


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Process(ctypes.Structure):
    """nvmlProcessInfo_t."""

    _fields_ = [
        ("pid", ctypes.c_uint),
        ("memory", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


def run_nvml() -> int:
    """0 and a line of JSON, whose `error` says what failed if anything did."""
    die_with(os.getppid())
    try:
        answer = _look()
    except (OSError, AttributeError, NvmlError) as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _look() -> dict[str, object]:
    nvml = ctypes.CDLL("libnvidia-ml.so.1")
    device, memory = ctypes.c_void_p(), _Memory()
    _check(nvml, "nvmlInit_v2")
    _check(nvml, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(0), ctypes.byref(device))
    _check(nvml, "nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
    processes: dict[int, int] = {}
    for name in ("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v3"):
        for pid, used in _processes(nvml, name, device):
            processes[pid] = max(used, processes.get(pid, 0))
    return {
        "uuid": _text(nvml, "nvmlDeviceGetUUID", device),
        "name": _text(nvml, "nvmlDeviceGetName", device),
        "totalBytes": memory.total,
        "usedBytes": memory.used,
        "processes": [{"pid": pid, "bytes": used} for pid, used in sorted(processes.items())],
    }


def _text(nvml: ctypes.CDLL, name: str, device: ctypes.c_void_p) -> str:
    buffer = ctypes.create_string_buffer(NAME_BYTES)
    _check(nvml, name, device, buffer, ctypes.c_uint(NAME_BYTES))
    return buffer.value.decode(errors="replace")


def _processes(nvml: ctypes.CDLL, name: str, device: ctypes.c_void_p) -> list[tuple[int, int]]:
    """Process ids and bytes; none where the driver does not tell."""
    call = getattr(nvml, name, None)
    count, rows = ctypes.c_uint(MOST_PROCESSES), (_Process * MOST_PROCESSES)()
    if call is None or int(call(device, ctypes.byref(count), rows)) != 0:
        return []
    return [(row.pid, row.memory) for row in rows[: count.value] if row.memory != NOT_AVAILABLE]


def _check(nvml: ctypes.CDLL, name: str, *args: object) -> None:
    if (code := int(getattr(nvml, name)(*args))) != 0:
        raise NvmlError(f"{name} failed with NVML error {code}")
