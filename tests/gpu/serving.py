"""Real vLLM with dummy weights: R engines with and without MPS and SM ceilings, under the same load in total."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from tests.gpu.check import Check, Findings
from tests.gpu.engines import NAME, Client, Engine, Vllm, run_engines
from tests.gpu.figures import LoadError, compare, latencies, read_counter, throughput
from tests.gpu.lab import CannotRunError, Daemon, Lab
from tests.gpu.limits import GIB, MIB
from tests.gpu.model_folder import read_config, write_model_folder
from tests.gpu.nvml import PowerMeter
from tests.gpu.prediction import Predict

__all__ = ["CASES", "Case", "Load", "serving_checks"]

Json = dict[str, Any]
BUDGET = 0.9
"""Of the GPU's memory, for all engines together."""
CONTEXT = GIB
"""Of a share, outside of vLLM's budget: the CUDA context and what vLLM does not count."""
CASE_S = 290
ENDING_S = 45
"""Of those, kept for ending the engines."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """The same for every case."""

    model: str = "Qwen/Qwen2.5-1.5B-Instruct"
    in_flight: int = 64
    input: int = 512
    output: int = 256
    warm_s: float = 10.0
    window_s: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """How the engines share the GPU."""

    replicas: int
    mps: bool
    sm_percent: int | None = None

    @property
    def name(self) -> str:
        sharing = "mps" if self.mps else "plain"
        return f"vllm-{self.replicas}-{sharing}{f'-{self.sm_percent}' if self.sm_percent else ''}"

    @property
    def says(self) -> str:
        engines = f"{self.replicas} engine{'s' if self.replicas > 1 else ''}"
        if not self.mps:
            return f"{engines} without MPS" + (" (time slices)" if self.replicas > 1 else "")
        return f"{engines} under MPS, SM ceiling {f'{self.sm_percent} %' if self.sm_percent else 'none'}"


CASES = (
    Case(replicas=1, mps=False),
    Case(replicas=1, mps=True),
    Case(replicas=2, mps=False),
    Case(replicas=2, mps=True),
    Case(replicas=2, mps=True, sm_percent=50),
    Case(replicas=4, mps=False),
    Case(replicas=4, mps=True),
    Case(replicas=4, mps=True, sm_percent=25),
)
"""R = 1, 2, 4; caps of 100/R and none. With one engine a ceiling of 100 % is none."""


def serving_checks(lab: Lab, *, vllm: Callable[[], Vllm], predict: Predict, load: Load) -> Iterator[Check]:
    """`vllm` finds the program once for all cases, or raises CannotRunError."""
    find = functools.cache(vllm)
    for case in CASES:
        yield Check(
            name=case.name,
            says=f"{case.says}: output tokens/s, ITL, TTFT, watts, beside `slmpack predict`",
            seconds=CASE_S,
            run=functools.partial(_serve, lab, find, predict, load, case),
        )


def engine_args(folder: str, *, case: Case, load: Load, total: int) -> tuple[list[str], int]:
    """Arguments of `vllm serve`, and the memory limit of an engine in MiB. `total` in bytes."""
    share = int(total * BUDGET / case.replicas / MIB)
    utilisation = int((share * MIB - CONTEXT) / total * 1000) / 1000
    if utilisation <= 0:
        raise CannotRunError(f"{case.replicas} engines of {share} MiB: a share must be over 1 GiB")
    sequences = -(-load.in_flight // case.replicas)
    return [
        folder,
        "--load-format=dummy",
        f"--max-model-len={load.input + load.output + 64}",
        f"--max-num-seqs={sequences}",
        f"--gpu-memory-utilization={utilisation}",
    ], share


def engine_env(case: Case, *, daemon: Daemon | None, limit_mib: int) -> dict[str, str]:
    """As slmpack writes it into a pack's engine; an SM ceiling only where the case has one."""
    if daemon is None:
        return {}
    ceiling = {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": str(case.sm_percent)} if case.sm_percent else {}
    return {**daemon.env, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": f"0={limit_mib}M", **ceiling}


def _serve(lab: Lab, find: Callable[[], Vllm], predict: Predict, load: Load, case: Case, findings: Findings) -> None:
    deadline = time.monotonic() + CASE_S - ENDING_S
    vllm, config = find(), read_config(load.model)
    total, _ = lab.nvml.memory()
    findings.note(case=asdict(case), load=asdict(load), vllm=vllm.version, power_limit_w=lab.nvml.power_limit_w())
    with ExitStack() as stack:
        folder = lab.new_folder("model")
        write_model_folder(folder, config=config)
        args, limit_mib = engine_args(str(folder), case=case, load=load, total=total)
        daemon = stack.enter_context(lab.daemon()) if case.mps else None
        env = engine_env(case, daemon=daemon, limit_mib=limit_mib)
        ready_by = deadline - load.warm_s - load.window_s
        engines = stack.enter_context(
            run_engines(lab, vllm, count=case.replicas, args=args, env=env, deadline=ready_by)
        )
        findings.note(limit_mib=limit_mib if case.mps else None, started_s=[engine.started_s for engine in engines])
        if daemon is not None:
            _expect_attached(findings, daemon, engines)
        _, used = lab.nvml.memory()
        findings.note(gpu_used_mib=used // MIB)
        measured = _measure(lab, engines, load=load, vocabulary=int(config["vocab_size"]))
        findings.note(measured=measured)
    predicted = predict(asdict(case), asdict(load), gpu=lab.nvml.name(), version=vllm.version)
    findings.note(predicted=predicted, compared=compare(measured, predicted))


def _expect_attached(findings: Findings, daemon: Daemon, engines: Sequence[Engine]) -> None:
    clients = {pid for pids in daemon.clients().values() for pid in pids}
    attached = [len(engine.pids() & clients) for engine in engines]
    findings.promise(
        "each engine has one process among the daemon's clients",
        held=attached == [1] * len(engines),
        saw=f"{attached} of {len(clients)} clients",
    )


def _measure(lab: Lab, engines: Sequence[Engine], *, load: Load, vocabulary: int) -> Json:
    """The load's figures over the window."""
    parts = [load.in_flight // len(engines) + (n < load.in_flight % len(engines)) for n in range(len(engines))]
    with ExitStack() as stack:
        clients = [
            stack.enter_context(Client.run(lab, _order(engine, load=load, in_flight=part, vocabulary=vocabulary)))
            for engine, part in zip(engines, parts, strict=True)
        ]
        time.sleep(load.warm_s)
        meter = PowerMeter(nvml=lab.nvml)
        before = [read_counter(engine.metrics()) for engine in engines]
        began = time.monotonic()
        meter.start()
        time.sleep(load.window_s)
        power = meter.stop()
        after = [read_counter(engine.metrics()) for engine in engines]
        ended = time.monotonic()
        answers = [client.finish() for client in clients]
    failures = [failure for _, failed in answers for failure in failed]
    if failures:
        raise LoadError(f"{len(failures)} completions failed, the first: {failures[0]}")
    done = [one for completions, _ in answers for one in completions]
    rate = throughput(before, after, seconds=ended - began)
    watts = power["watts"]
    return {
        "throughput_tok_s": round(rate, 1),
        "each_tok_s": [round((a - b) / (ended - began), 1) for b, a in zip(before, after, strict=True)],
        **latencies(done, began=began, ended=ended, output=load.output),
        "power_w": None if watts is None else round(watts, 1),
        "sampled_power_w": None if power["sampled_watts"] is None else round(power["sampled_watts"], 1),
        "energy_j_per_token": None if watts is None or not rate else float(f"{watts / rate:.4g}"),
    }


def _order(engine: Engine, *, load: Load, in_flight: int, vocabulary: int) -> Json:
    return {
        "port": engine.port,
        "model": NAME,
        "in_flight": in_flight,
        "input": load.input,
        "output": load.output,
        "vocabulary": vocabulary,
        "seed": str(engine.port),
    }
