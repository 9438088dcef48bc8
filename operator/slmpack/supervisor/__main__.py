"""`supervisor.pyz [probe LIMIT_BYTES | nvml | exec PARENT CORES COMMAND...]`; else the supervisor."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """The helper that `argv` names, else the supervisor; its exit code. Imports only what that one needs."""
    match argv:
        case ["exec", parent, cores, *command] if command:
            from slmpack.supervisor.launch import become

            return become(command, parent=int(parent), cores=[int(core) for core in cores.split(",") if core])
        case ["probe", limit]:
            from slmpack.supervisor.probe import run_probe

            return run_probe(int(limit))
        case ["nvml"]:
            from slmpack.supervisor.nvml import run_nvml

            return run_nvml()
        case []:
            from slmpack.supervisor.main import supervise

            return supervise()
        case _:
            sys.stderr.write(f"{__doc__}\n")
            return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
