"""`python -m benchmarks [name...]`: run the named benchmarks, or all."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime

from benchmarks import create_latency, plan_time

ALL = {"plan-time": plan_time.main, "create-latency": create_latency.main}


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
