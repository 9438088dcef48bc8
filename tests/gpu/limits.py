"""What a CUDA process sees under CUDA_MPS_PINNED_DEVICE_MEM_LIMIT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

from tests.gpu.check import Check, Findings
from tests.gpu.lab import CudaProcess, Daemon, Lab, Refused

__all__ = ["GIB", "MIB", "PIECES", "limit_checks", "limit_env", "whole_gpu"]

Json = dict[str, Any]
MIB, GIB = 1024**2, 1024**3
PIECES = [64 * MIB, 2 * MIB]
"""64 MiB until refused, then the rest in the pages of CUDA's allocator."""
BEYOND = GIB
"""A process that gets that much more than its limit has none."""
NEAR = 0.01
"""Two totals are the same within this part."""
LARGE_PART = 0.4
"""Of the GPU's memory: a third limit."""


def limit_checks(lab: Lab) -> Iterator[Check]:
    """The checks, each with a daemon of its own."""
    large = int(lab.nvml.memory()[0] * LARGE_PART / MIB) // 64 * 64
    for name, mib in (("2048", 2048), ("8192", 8192), ("large", large)):
        yield Check(
            name=f"mps-limit-{name}",
            says=f"memory that one process sees and gets under a limit of {mib} MiB in its environment",
            seconds=120,
            run=partial(_one, lab, mib),
        )
    yield Check(
        name="mps-limit-two",
        says="two processes at once, each with a limit of its own",
        seconds=120,
        run=partial(_two, lab),
    )
    yield Check(
        name="mps-limit-default",
        says="a daemon's default limit, with the environment's below it, above it and absent",
        seconds=180,
        run=partial(_default, lab),
    )


def limit_env(mib: int, *, device: int = 0) -> dict[str, str]:
    """The variable as slmpack writes it."""
    return {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"{device}={mib}M"}


def whole_gpu(lab: Lab) -> int:
    """Total bytes that cuMemGetInfo shows a process outside of MPS."""
    with lab.process({"CUDA_MPS_PIPE_DIRECTORY": str(lab.new_folder("none"))}) as process:
        return int(process.ask("open")["total"])


def fill_beyond(process: CudaProcess, mib: int) -> Json:
    """Take memory until refused, or until the limit is passed by 1 GiB."""
    return process.ask("fill", pieces=PIECES, most=mib * MIB + BEYOND)


def judge_memory(findings: Findings, *, who: str, mib: int, whole: int, memory: Json) -> None:
    """What cuMemGetInfo shows, against the one public source (facts-vllm.md C: free = limit, total = whole GPU)."""
    limit, free, total = mib * MIB, memory["free"], memory["total"]
    findings.promise(
        f"{who}: cuMemGetInfo's total is that of the whole GPU (one public source)",
        held=abs(total - whole) <= NEAR * whole,
        saw=f"{_mib(total)}, outside of MPS {_mib(whole)}",
    )
    findings.promise(
        f"{who}: cuMemGetInfo's free is the limit less what the process holds (one public source)",
        held=limit / 2 < free <= limit,
        saw=f"{_mib(free)} of {mib} MiB",
    )
    runtime = memory["runtime"]
    if "free" in runtime:
        findings.promise(
            f"{who}: cudaMemGetInfo shows the same as cuMemGetInfo",
            held=(runtime["free"], runtime["total"]) == (free, total),
            saw=f"free {_mib(runtime['free'])}, total {_mib(runtime['total'])}",
        )


def judge_fill(findings: Findings, *, who: str, mib: int, filled: Json) -> None:
    """The limit binds, and most of it can be had: a process that gets nothing has proved nothing."""
    saw = f"{_mib(filled['bytes'])}, then {filled['error'] or 'no refusal'}"
    findings.promise(
        f"{who}: no more than {mib} MiB can be allocated",
        held=bool(filled["refused"]) and filled["bytes"] <= mib * MIB,
        saw=saw,
    )
    findings.promise(f"{who}: most of the limit can be used", held=filled["bytes"] > mib * MIB / 2, saw=saw)


def _one(lab: Lab, mib: int, findings: Findings) -> None:
    whole = whole_gpu(lab)
    with lab.daemon() as daemon, lab.process({**daemon.env, **limit_env(mib)}) as process:
        opened = process.ask("open")
        judge_memory(findings, who="process", mib=mib, whole=whole, memory=opened)
        filled = fill_beyond(process, mib)
        judge_fill(findings, who="process", mib=mib, filled=filled)
        full = process.ask("memory")
        process.ask("drop")
        findings.note(
            limit_mib=mib,
            whole_mib=whole // MIB,
            open=_shown(opened),
            full=_shown(full),
            allocated_mib=filled["bytes"] // MIB,
            kept_by_cuda_mib=mib - filled["bytes"] // MIB,
            refusal=filled["error"],
            given_back=_shown(process.ask("memory")),
            clients=[len(clients) for clients in daemon.clients().values()],
        )


def _two(lab: Lab, findings: Findings) -> None:
    whole, limits = whole_gpu(lab), (4096, 8192)
    with ExitStack() as stack:
        daemon = stack.enter_context(lab.daemon())
        pair = [(mib, stack.enter_context(lab.process({**daemon.env, **limit_env(mib)}))) for mib in limits]
        for mib, process in pair:
            judge_memory(findings, who=f"limit {mib}", mib=mib, whole=whole, memory=process.ask("open"))
        for mib, process in pair:
            filled = fill_beyond(process, mib)
            judge_fill(findings, who=f"limit {mib}", mib=mib, filled=filled)
            findings.note(**{f"allocated_mib_of_{mib}": filled["bytes"] // MIB})
        both_full = [_shown(process.ask("memory")) for _, process in pair]
        findings.note(both_full=both_full, clients=[len(clients) for clients in daemon.clients().values()])


def _default(lab: Lab, findings: Findings) -> None:
    """The environment can only lower the default; a changed default concerns later servers."""
    default = 6144
    with lab.daemon() as daemon:
        daemon.ask(f"set_default_device_pinned_mem_limit 0 {default}M")
        for who, env, mib in (
            ("no limit in the environment", {}, default),
            ("environment below the default", limit_env(3072), 3072),
            ("environment above the default", limit_env(12288), default),
        ):
            _under_default(lab, daemon, findings, who=who, env=env, mib=mib)
        with lab.process({**daemon.env}) as holds_the_server:
            holds_the_server.ask("open")
            daemon.ask("set_default_device_pinned_mem_limit 0 3072M")
            who = "default lowered to 3072 MiB while the server runs"
            _under_default(lab, daemon, findings, who=who, env={}, mib=default)


def _under_default(lab: Lab, daemon: Daemon, findings: Findings, *, who: str, env: dict[str, str], mib: int) -> None:
    with lab.process({**daemon.env, **env}) as process:
        try:
            opened = process.ask("open")
        except Refused as error:
            findings.promise(f"{who}: a process can open the GPU", held=False, saw=str(error))
            return
        filled = fill_beyond(process, mib)
    judge_fill(findings, who=who, mib=mib, filled=filled)
    findings.note(**{who: {**_shown(opened), "allocated_mib": filled["bytes"] // MIB, "refusal": filled["error"]}})


def _shown(memory: Json) -> Json:
    """MiB instead of bytes."""
    found: Json = {"free_mib": memory["free"] // MIB, "total_mib": memory["total"] // MIB}
    runtime = memory["runtime"]
    if "free" not in runtime:
        return {**found, "cudart": runtime["error"]}
    return {**found, "cudart_free_mib": runtime["free"] // MIB, "cudart_total_mib": runtime["total"] // MIB}


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"
