"""The GPU of a fake pack: `probe LIMIT_BYTES` and `nvml`, with the answers of the supervisor's helpers.

In FAKE_PACK_STATE:
  gpu.json        read: totalBytes (default 80 GiB), hang ("nvml" or "probe"), processes (false: NVML tells none apart)
  memory/PID      read: bytes of the process PID, as long as it lives
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fake_client import attach, event, say  # type: ignore[import-not-found]

STATE = Path(os.environ["FAKE_PACK_STATE"])
GIB = 1 << 30


def gpu() -> dict[str, object]:
    path = STATE / "gpu.json"
    return {"totalBytes": 80 * GIB, "hang": "", "processes": True} | (
        json.loads(path.read_text()) if path.exists() else {}
    )


def used() -> dict[int, int]:
    found: dict[int, int] = {}
    for path in (STATE / "memory").glob("*"):
        if Path(f"/proc/{path.name}").exists():
            found[int(path.name)] = int(path.read_text() or "0")
    return found


def nvml() -> None:
    device, memory = gpu(), used()
    if device["hang"] == "nvml":
        time.sleep(3600)
    answer = {
        "uuid": "GPU-fa4e0000-0000-4000-8000-000000000001",
        "name": "Fake H100 80GB",
        "totalBytes": device["totalBytes"],
        "usedBytes": sum(memory.values()) + GIB // 2,
        "processes": [{"pid": pid, "bytes": size} for pid, size in memory.items()] if device["processes"] else [],
    }
    say(json.dumps(answer))


def probe(limit: int) -> None:
    device = gpu()
    if device["hang"] == "probe":
        time.sleep(3600)
    total = int(str(device["totalBytes"]))
    free = total - sum(used().values()) - GIB // 2
    connection = attach()
    # The limit binds a client of MPS, and no other process.
    bound = int(os.environ["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"].split("=")[1].rstrip("M")) << 20
    if connection is not None:
        free = min(free, bound)
    event("probe", attached=connection is not None, limit=limit, pid=os.getpid())
    answer = {"freeBytes": free, "totalBytes": total, "allocationCode": 0 if limit + GIB // 4 <= free else 2}
    say(json.dumps(answer))
    sys.stdin.read()


match sys.argv[1:]:
    case ["nvml"]:
        nvml()
    case ["probe", limit]:
        probe(int(limit))
    case _:
        sys.exit(64)
