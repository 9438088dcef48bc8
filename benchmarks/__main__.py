"""`python -m benchmarks [name...]`: run the named benchmarks, or all."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime

from benchmarks import (
    autoscaling,
    closed_loop,
    colocation,
    create_latency,
    decide_all,
    footprint,
    iteration_time,
    plan_time,
    power,
    published_knees,
    simulator_validation,
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
    "simulator-validation": simulator_validation.main,
    "closed-loop": closed_loop.main,
}


def main(names: list[str]) -> int:
    if names[:1] == ["autoscaling"]:  # it has flags of its own, and takes hours: not one of ALL
        return autoscaling.main(names[1:])
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"unknown benchmark {', '.join(unknown)}; there are autoscaling, {', '.join(ALL)}", file=sys.stderr)
        return 1
    today = datetime.now(UTC).date()  # noqa: TID251 - a heading, no decision
    print(f"{today}, {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    for name in names or ALL:
        print(f"\n{name}")
        ALL[name]()
    return 0


sys.exit(main(sys.argv[1:]))
