"""`python -m benchmarks [name...]`: run the named benchmarks, or all."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime

from benchmarks import (
    colocation,
    create_latency,
    decide_all,
    footprint,
    iteration_time,
    plan_time,
    power,
    published_knees,
)

ALL = {
    "plan-time": plan_time.main,
    "create-latency": create_latency.main,
    "footprint": footprint.main,
    "iteration-time": iteration_time.main,
    "colocation": colocation.main,
    "power": power.main,
    "decide-all": decide_all.main,
    "published-knees": published_knees.main,
}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(ALL)}", file=sys.stderr)
        return 1
    today = datetime.now(UTC).date()  # noqa: TID251 - a heading, no decision
    print(f"{today}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    for name in names or ALL:
        print(f"\n{name}")
        ALL[name]()
    return 0


sys.exit(main(sys.argv[1:]))
