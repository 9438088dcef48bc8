"""The flags that `estimate` and `predict` share. Imports nothing heavier than click: `slmpack --help` reads this."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click
from typing_extensions import override

from slmpack.cli.complete_names import gpus

__all__ = ["HEADINGS", "Real", "Whole", "question_flags"]

Command = TypeVar("Command", bound=Callable[..., Any])

HEADINGS = {
    "The load, and its bounds": (
        "batch",
        "in_flight",
        "request_rate",
        "input_len",
        "output_len",
        "prefix_hit_rate",
        "itl_ms",
        "ttft_ms",
        "objective",
    ),
    "The engine": (
        "engine_version",
        "dtype",
        "quantization",
        "kv_cache_dtype",
        "max_",
        "gpu_memory_utilization",
        "enforce_eager",
        "cpu_cores",
    ),
}
"""Of the flags below, in --help."""
LARGEST = 10**9
"""No count of tokens, sequences or requests of one GPU comes near it."""


class Whole(click.ParamType[int]):
    """A whole number from `least` to `most`."""

    name = "number"

    def __init__(self, least: int, *, most: int = LARGEST, example: int) -> None:
        self.least, self.most, self.example = least, most, example

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; click.BadParameter with the rule and an example for anything else."""
        text = str(value).strip()
        digits = text.removeprefix("-").removeprefix("+")
        if digits.isascii() and digits.isdigit() and len(digits) <= 12 and self.least <= int(text) <= self.most:
            return int(text)
        too_large = digits.isdigit() and len(digits) >= len(str(LARGEST))
        bounded = self.most < LARGEST or too_large
        span = f"from {self.least} to {self.most:,}" if bounded else f"{self.least} or more"
        message = f"{value!r}: a whole number {_of(span)} is needed; write for example {self.example}"
        raise click.BadParameter(message, ctx=ctx, param=param)


class Real(click.ParamType[float]):
    """A number above `above` (or equal to it where `closed`), at most `most`."""

    name = "number"

    def __init__(self, *, above: float = 0.0, closed: bool = False, most: float = LARGEST, example: float) -> None:
        self.above, self.closed, self.most, self.example = above, closed, most, example

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; click.BadParameter with the rule and an example for anything else."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        enough = number >= self.above if self.closed else number > self.above
        if enough and number <= self.most:
            return number
        span = f"{self.above:g} or more" if self.closed else f"more than {self.above:g}"
        if self.most < LARGEST or number > self.most:
            span += f" and at most {self.most:,.10g}" if self.closed else f", at most {self.most:,.10g}"
        message = f"{value!r}: a number {_of(span)} is needed; write for example {self.example:g}"
        raise click.BadParameter(message, ctx=ctx, param=param)


def _of(span: str) -> str:
    return span if span.startswith("from") else f"of {span}"


def _flag(name: str, *names: str, help: str, **extra: Any) -> Callable[[Command], Command]:  # noqa: A002, ANN401
    return click.option(name, *names, help=help, default=None, **extra)


_FLAGS: tuple[Callable[[Any], Any], ...] = (
    _flag(
        "--config",
        "config",
        type=click.Path(),
        metavar="FILE",
        help="The model's config.json, instead of MODEL.",
    ),
    _flag(
        "--gpu",
        "gpu",
        shell_complete=gpus,
        metavar="GPU",
        help="The GPU: an id of the catalogue (l4, h100-sxm5-80gb) or the node's nvidia.com/gpu.product label.",
    ),
    _flag(
        "--sharing",
        "sharing",
        type=click.Choice(["none", "mig", "mps", "timeslice"]),
        help="How replicas share the GPU. estimate, by default: whichever pays best of none, mig and mps.",
    ),
    _flag("--mig-profile", "mig_profile", metavar="PROFILE", help="Such as 1g.10gb; implies --sharing mig."),
    _flag(
        "--sm-percent",
        "sm_percent",
        type=Whole(1, most=100, example=50),
        metavar="PERCENT",
        help="With mps: the most multiprocessors that each replica may use. Default: no ceiling.",
    ),
    _flag(
        "--replicas",
        "replicas",
        type=Whole(1, most=1024, example=2),
        metavar="N",
        help="Replicas on the GPU. estimate, by default: as many as pay; predict: 1.",
    ),
    _flag(
        "--batch",
        "batch",
        type=Whole(1, example=64),
        metavar="N",
        help="Load: requests in flight at each replica.",
    ),
    _flag(
        "--in-flight",
        "in_flight",
        type=Real(example=128),
        metavar="N",
        help="Load: requests in flight on the GPU, spread evenly over its replicas.",
    ),
    _flag(
        "--request-rate",
        "request_rate",
        type=Real(example=10),
        metavar="N",
        help="Load: requests a second on the GPU.",
    ),
    _flag(
        "--input-len",
        "input_len",
        type=Whole(1, example=512),
        metavar="TOKENS",
        help="Tokens of a prompt. Default: 512, assumed.",
    ),
    _flag(
        "--output-len",
        "output_len",
        type=Whole(1, example=256),
        metavar="TOKENS",
        help="Tokens of an answer. Default: 256, assumed.",
    ),
    _flag(
        "--prefix-hit-rate",
        "prefix_hit_rate",
        type=Real(closed=True, most=1.0, example=0.3),
        metavar="PART",
        help="Part of a prompt, 0 to 1, that one replica serving everything has in its prefix cache. Default: 0.",
    ),
    _flag(
        "--itl-ms",
        "itl_ms",
        type=Real(example=30),
        metavar="MS",
        help="Keep the mean time between two tokens within this.",
    ),
    _flag(
        "--ttft-ms",
        "ttft_ms",
        type=Real(example=500),
        metavar="MS",
        help="Keep the mean time to the first token within this.",
    ),
    _flag(
        "--objective",
        "objective",
        type=click.Choice(["Throughput", "Latency", "Energy"], case_sensitive=False),
        help="What decides among choices that keep the bounds. Default: Throughput.",
    ),
    _flag("--engine-version", "engine_version", metavar="VERSION", help="Of vLLM. Default: the operator's."),
    _flag("--dtype", "dtype", metavar="DTYPE", help="vLLM's --dtype. Default: auto, as the config says."),
    _flag(
        "--quantization",
        "quantization",
        metavar="METHOD",
        help="vLLM's --quantization. Default: what the config says.",
    ),
    _flag("--kv-cache-dtype", "kv_cache_dtype", metavar="DTYPE", help="vLLM's --kv-cache-dtype. Default: auto."),
    _flag(
        "--max-model-len",
        "max_model_len",
        type=Whole(2, example=8192),
        metavar="TOKENS",
        help="Tokens that a request may have, in and out. Default: the model's, at most 8192.",
    ),
    _flag(
        "--max-num-seqs",
        "max_num_seqs",
        type=Whole(1, example=128),
        metavar="N",
        help="Sequences that run at a time in a replica. Default: the operator's; predict --batch: all that fit.",
    ),
    _flag(
        "--max-num-batched-tokens",
        "max_num_batched_tokens",
        type=Whole(1, example=2048),
        metavar="TOKENS",
        help="Tokens of one step of a replica. Default: the operator's.",
    ),
    _flag(
        "--gpu-memory-utilization",
        "gpu_memory_utilization",
        type=Real(most=1.0, example=0.9),
        metavar="PART",
        help="vLLM's budget as part of CUDA's total. Default: as much as the share holds.",
    ),
    click.option("--enforce-eager", "enforce_eager", is_flag=True, help="Without CUDA graphs."),
    _flag(
        "--cpu-cores",
        "cpu_cores",
        type=Real(example=2),
        metavar="N",
        help="CPU cores that each replica has. Default: as many as it asks for.",
    ),
    click.option(
        "--model-timeout",
        "model_seconds",
        type=Real(closed=True, example=20),
        default=20.0,
        show_default=True,
        metavar="SECONDS",
        help="How long to wait for config.json of a model that does not ship with slmpack.",
    ),
)


def question_flags(command: Command) -> Command:
    """Give a command MODEL and every shared flag."""
    decorated: Any = command
    for flag in reversed(_FLAGS):
        decorated = flag(decorated)
    return click.argument("model", required=False)(decorated)  # type: ignore[no-any-return]
