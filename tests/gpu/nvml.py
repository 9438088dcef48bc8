"""The GPU by NVML, through ctypes: what it is, and what it draws."""

from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import dataclass, field

__all__ = ["GpuMissingError", "Nvml", "PowerMeter"]

COMPUTE_MODES = {0: "DEFAULT", 1: "EXCLUSIVE_THREAD", 2: "PROHIBITED", 3: "EXCLUSIVE_PROCESS"}
NOT_SUPPORTED = 3
SAMPLE_S = 0.2


class GpuMissingError(Exception):
    """There is no GPU that the checks can use; the message says why."""


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Nvml:
    """The first GPU of this machine. Raises GpuMissingError where there is none."""

    def __init__(self) -> None:
        try:
            self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError as error:
            raise GpuMissingError(f"no NVIDIA driver on this machine: {error}") from error
        self._check("nvmlInit_v2")
        count = ctypes.c_uint()
        self._check("nvmlDeviceGetCount_v2", ctypes.byref(count))
        if not count.value:
            raise GpuMissingError("NVML answers, and shows no GPU")
        self.count = count.value
        self._device = ctypes.c_void_p()
        self._check("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(0), ctypes.byref(self._device))

    def name(self) -> str:
        return self._text("nvmlDeviceGetName", self._device)

    def uuid(self) -> str:
        return self._text("nvmlDeviceGetUUID", self._device)

    def driver(self) -> str:
        return self._text("nvmlSystemGetDriverVersion")

    def cuda(self) -> str:
        """The newest CUDA that the driver serves, such as 13.0."""
        number = ctypes.c_int()
        self._check("nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(number))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"

    def memory(self) -> tuple[int, int]:
        """Total and used bytes."""
        memory = _Memory()
        self._check("nvmlDeviceGetMemoryInfo", self._device, ctypes.byref(memory))
        return memory.total, memory.used

    def compute_mode(self) -> str:
        number = self._number("nvmlDeviceGetComputeMode")
        return COMPUTE_MODES.get(number, f"mode {number}") if number is not None else "unknown"

    def mig_enabled(self) -> bool:
        current, pending = ctypes.c_uint(), ctypes.c_uint()
        code = self._call("nvmlDeviceGetMigMode", self._device, ctypes.byref(current), ctypes.byref(pending))
        return code == 0 and current.value == 1

    def power_w(self) -> float | None:
        """Board power now, or None where NVML does not say."""
        milliwatts = self._number("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1000

    def power_limit_w(self) -> float | None:
        milliwatts = self._number("nvmlDeviceGetEnforcedPowerLimit")
        return None if milliwatts is None else milliwatts / 1000

    def energy_j(self) -> float | None:
        """Since the driver was loaded, or None where NVML does not say."""
        millijoules = ctypes.c_ulonglong()
        code = self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(millijoules))
        return None if code else millijoules.value / 1000

    def _number(self, function: str) -> int | None:
        number = ctypes.c_uint()
        return None if self._call(function, self._device, ctypes.byref(number)) else number.value

    def _text(self, function: str, *arguments: object) -> str:
        buffer = ctypes.create_string_buffer(96)
        self._check(function, *arguments, buffer, ctypes.c_uint(len(buffer)))
        return buffer.value.decode(errors="replace")

    def _check(self, function: str, *arguments: object) -> None:
        code = self._call(function, *arguments)
        if code:
            raise GpuMissingError(f"NVML's {function} answers with error {code}")

    def _call(self, function: str, *arguments: object) -> int:
        try:
            found = getattr(self._nvml, function)
        except AttributeError:  # an older driver
            return NOT_SUPPORTED
        return int(found(*arguments))


@dataclass(kw_only=True)
class PowerMeter:
    """Mean watts over a stretch of time: by the energy counter, and by samples where there is none."""

    nvml: Nvml
    _samples: list[float] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _began: tuple[float, float | None] = (0.0, None)

    def start(self) -> None:
        self._began = (time.monotonic(), self.nvml.energy_j())
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float | None]:
        """`watts` by the counter, `sampled_watts` by samples each 0.2 s; None where NVML does not say."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        began, before = self._began
        seconds, after = time.monotonic() - began, self.nvml.energy_j()
        counted = (after - before) / seconds if before is not None and after is not None and after > before else None
        sampled = sum(self._samples) / len(self._samples) if self._samples else None
        return {"watts": counted if counted is not None else sampled, "sampled_watts": sampled}

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            watts = self.nvml.power_w()
            if watts is not None:
                self._samples.append(watts)
