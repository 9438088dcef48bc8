"""docs/gpu-checks.md from the results in the repository. Pure: `render` is told all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.gpu.outcome import CONTRADICTED, FAILED, HELD, NOT_RUN, Outcome, Results, newest

__all__ = ["render"]

Json = dict[str, Any]
HEAD = """# The GPU checks: what a real GPU says

<!-- Written by `python -m tests.gpu render` from tests/gpu/results/. Do not edit. -->

`make test-gpu` looks at one NVIDIA GPU. It is opt-in, and no part of `make test` or `make check`. It needs a GPU with its driver, Python
3.10 or newer and no package, no network, no cluster; without a GPU it ends with an error. Some checks need MPS
(`nvidia-cuda-mps-control`), those of user ids need root, those of vLLM need vLLM; a check that lacks something is "not run", never held.

```sh
make test-gpu                                  # everything: up to 40 minutes with vLLM, 5 without
make test-gpu ARGS='-k mps'                    # the checks whose names begin so
make test-gpu ARGS='-k vllm-4 --vllm PATH'     # with the `vllm` program of some environment
make test-gpu ARGS=--list
make test-gpu ARGS=predict                     # put the prediction beside results that came without the project's environment
make test-gpu ARGS=render                      # write this page
```

A run writes `tests/gpu/results/<gpu>-<date>.json` and this page. Parts of one day are put together, the newer outcome of a check
replaces the older. The exit code is 1 where something promised was not seen or a check broke off, and 2 where nothing could be
checked.

It starts MPS daemons in private pipe directories, without privileges. It never changes compute mode, MIG, clocks or power limits,
and ends what it started, also when it is killed. Each check has a time limit, 290 s at most.

## What is checked

| checks | what | the promise |
|---|---|---|
| `mps-limit-2048`, `-8192`, `-large` | free and total by `cuMemGetInfo` and `cudaMemGetInfo`, and 64 MiB pieces until refused, under `CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=<n>M"` | no more than the limit can be had; total is that of the whole GPU and free is the limit (one public source) |
| `mps-limit-two` | two processes at once, 4,096 and 8,192 MiB | each has its own limit |
| `mps-limit-default` | `set_default_device_pinned_mem_limit`, and the environment below it, above it, absent | the environment can only lower it; a changed default concerns later servers |
| `mps-attach-*` | pipe directory right, without a daemon, missing, unset; a limit that also names an invisible GPU | not attached means no limit (or, in EXCLUSIVE_PROCESS mode, no start), and the supervisor's probe says NotAttached |
| `mps-uid-*` | clients and daemons of different user ids | one user id at a time, others wait; the rest is recorded |
| `vllm-<R>-*` | real vLLM, dummy weights, R = 1, 2, 4, MPS on and off, SM ceilings 100/R and none, as many requests in flight in total, unique prompts | each engine is one MPS client; speed and watts are recorded, never judged, and stand beside `slmpack predict` |

Throughput comes from the engines' own counters over the window, latencies from the client's clock (ITL: first to last token of a
request over its gaps), watts from NVML's energy counter, of the whole board.
"""
NONE = """
## Results

**not run yet**: no results are in `tests/gpu/results/`. What the pages say about limits on a GPU stands on the sources that they name.
"""
ABOUT = {
    HELD: "as promised",
    CONTRADICTED: "**contradicts the facts**",
    FAILED: "broke off",
    NOT_RUN: "not run",
}


def render(results: Sequence[Results]) -> str:
    """The whole page; the newest results of each GPU."""
    chosen = newest(results)
    if not chosen:
        return HEAD + NONE
    return HEAD + "".join("\n".join(("", *_section(one), "")) for one in chosen)


def _section(results: Results) -> Iterator[str]:
    machine = results.machine
    yield f"## {machine.gpu}, {results.date}"
    yield ""
    yield (
        f"slmpack {results.slmpack}, driver {machine.driver} (CUDA {machine.cuda}), {machine.total_mib:,} MiB by NVML, "
        f"compute mode {machine.compute_mode}, run as {'root' if machine.root else 'an ordinary user'}."
        + (f" Not alone on the GPU: {_cell(machine.other_users)}." if machine.other_users else "")
    )
    yield ""
    yield "| check | outcome | took |"
    yield "|---|---|---|"
    for outcome in results.outcomes:
        why = outcome.failed or outcome.not_run
        said = f"{ABOUT.get(outcome.status, outcome.status)}{f': {_cell(why)}' if why else ''}"
        yield f"| `{outcome.name}` | {said} | {outcome.seconds:.0f} s |"
    yield from _promises(results.outcomes)
    yield from _limits(results.outcomes)
    yield from _serving(results.outcomes)
    yield from _recorded(results.outcomes)


def _promises(outcomes: Sequence[Outcome]) -> Iterator[str]:
    rows = [(outcome.name, promise) for outcome in outcomes for promise in outcome.promises]
    if not rows:
        return
    # What contradicts comes first: it is why the page is read.
    rows.sort(key=lambda row: row[1].held)
    yield from ("", "### Promised and seen", "", "| check | promise | seen | |", "|---|---|---|---|")
    for name, promise in rows:
        yield f"| `{name}` | {_cell(promise.says)} | {_cell(promise.saw)} | {'yes' if promise.held else '**NO**'} |"


def _limits(outcomes: Sequence[Outcome]) -> Iterator[str]:
    rows = [outcome.seen for outcome in outcomes if "kept_by_cuda_mib" in outcome.seen]
    if not rows:
        return
    yield from ("", "### Memory under a limit, MiB", "")
    yield "| limit | free at the start | total | allocated | kept by CUDA | free when full | refused with |"
    yield "|---|---|---|---|---|---|---|"
    for seen in rows:
        figures = (seen["limit_mib"], seen["open"]["free_mib"], seen["open"]["total_mib"], seen["allocated_mib"])
        rest = (seen["kept_by_cuda_mib"], seen["full"]["free_mib"])
        yield f"| {' | '.join(f'{figure:,}' for figure in (*figures, *rest))} | `{seen['refusal']}` |"


def _serving(outcomes: Sequence[Outcome]) -> Iterator[str]:
    rows = [outcome for outcome in outcomes if "measured" in outcome.seen]
    if not rows:
        return
    yield from ("", "### vLLM beside the prediction", "")
    for load, version in dict.fromkeys((_load(row.seen["load"]), row.seen["vllm"]) for row in rows):
        yield f"{load}; vLLM {version}. Predicted figures are `slmpack predict`'s expected value (low to high)."
    yield ""
    yield "| case | output tokens/s | predicted | ITL, ms | predicted | TTFT, ms | predicted | W | predicted |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        cells = [
            cell
            for key in ("throughput_tok_s", "itl_ms", "ttft_ms", "power_w")
            for cell in (_number(row.seen["measured"].get(key)), _predicted(row.seen.get("predicted", {}), key))
        ]
        yield f"| `{row.name}` | {' | '.join(cells)} |"
    errors = {row.seen["predicted"]["error"] for row in rows if "error" in row.seen.get("predicted", {})}
    for error in sorted(errors):
        yield from ("", f"No prediction: {_cell(error)}. `make test-gpu ARGS=predict` adds it later.")


def _recorded(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """What has no promise and no table of its own: notes that are sentences."""
    rows = [(o.name, key, text) for o in outcomes for key, text in o.seen.items() if " " in key]
    if not rows:
        return
    yield from ("", "### Recorded", "", "| check | case | seen |", "|---|---|---|")
    for name, key, text in rows:
        seen = ", ".join(f"{k} {v}" for k, v in text.items()) if isinstance(text, Mapping) else text
        yield f"| `{name}` | {_cell(key)} | {_cell(str(seen))} |"


def _load(load: Mapping[str, Any]) -> str:
    return (
        f"{load['model']} with dummy weights, {load['in_flight']} requests in flight in total, {load['input']} tokens in, "
        f"{load['output']} out, {load['window_s']:.0f} s after {load['warm_s']:.0f} s of warming up"
    )


def _predicted(predicted: Mapping[str, Any], key: str) -> str:
    found = predicted.get(key)
    return "-" if found is None else f"{_number(found['value'])} ({_number(found['low'])} to {_number(found['high'])})"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cell(text: str) -> str:
    """Text that does not break a table."""
    return " ".join(text.replace("|", "/").split())
