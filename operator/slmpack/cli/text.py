"""`slmpack plan` for people: the footprint, need against offer, the picture, the reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from slmpack.cli.answer import Answer, answers
from slmpack.cli.draw import draw_bars, glyphs_of
from slmpack.cli.scaling_text import scale_line
from slmpack.cli.world import World
from slmpack.domain.choice import Choice
from slmpack.domain.footprint import explain
from slmpack.domain.fragmentation import slice_notes
from slmpack.domain.interval import describe_interval
from slmpack.domain.inventory import read_nodes
from slmpack.domain.plan import ClusterPlan, CreatePod, DeletePod, EndPod, GpuBar, SetEngines, UsedFit
from slmpack.domain.quantity import GIB, format_bytes
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import describe_share, limit_bytes
from slmpack.domain.snapshot import Demand, Key, ModelUnknown
from slmpack.render.engine_args import plan_flags

__all__ = ["offers_of", "print_decision", "print_footprint", "print_plan"]

NAMED_NODES = 5
ROLLOUTS = {Reason.ROLLING_OUT, Reason.ROLLOUT_STOPPED, Reason.ROLLOUT_BLOCKED}
WHAT_IF_NOTE = (
    "No nodes are given: this is what would happen with one empty, whole GPU of each kind in the catalogue (no MIG, no"
    " MPS). Add your own with -f nodes.yaml (kubectl get nodes -o yaml) or --cluster."
)


def print_plan(console: Console, plan: ClusterPlan, world: World) -> None:
    """Everything that was asked about, then the picture, then what has no place and why."""
    if world.what_if:
        console.print(Text(WHAT_IF_NOTE, style="yellow"))
        console.print()
    given = answers(plan, asked=world.asked)
    for answer in given:
        _print_answer(console, answer, sources=world.sources)
    _print_picture(console, plan.bars, what_if=world.what_if)
    for note in slice_notes(read_nodes(world.snapshot.nodes, world.policy.gpus), plan.bars):
        console.print(Text(note, style="dim"))
    _print_reasons(console, given)
    _print_ends(console, plan, world)


def _print_answer(console: Console, answer: Answer, *, sources: Mapping[Key, str]) -> None:
    view = answer.plan.deployment
    title = Text(str(view.key), style="bold")
    if answer.wanted is not None:
        title.append(f"  {answer.placed} of {answer.wanted} replicas placed")
    else:
        title.append("  rejected", style="red")
    console.print(title)
    print_footprint(console, answer, source=sources.get(view.key))
    for line in offers_of(answer):
        console.print(_indented(line))
    if answer.placed:
        for used in answer.plan.fits:
            print_decision(console, used)
    demand, scale = view.demand, answer.plan.scale
    if scale is not None and isinstance(demand, Demand) and demand.scaling is not None:
        console.print(_indented(scale_line(scale, demand.scaling)))
    console.print()


def print_footprint(console: Console, answer: Answer, *, source: str | None) -> None:
    """Device memory of one replica, term by term."""
    plan = answer.plan
    footprint, demand = plan.footprint, plan.deployment.demand
    if footprint is None:
        return
    what = f"{source or demand.model_source} on vLLM {demand.engine_version}" if isinstance(demand, Demand) else ""
    console.print(
        _indented(f"one replica of {what}, {plan.max_model_len:,} tokens at most (estimate, {footprint.basis})")
    )
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    rows = explain(footprint)
    for label, size, note in rows[:-1]:
        table.add_row(f"    {label}", _gib(size), note)
    per_token = f"{plan.kv_tokens:,} tokens of {format_bytes(footprint.kv_bytes_per_token)} (exact)"
    table.add_row("    KV cache", _gib(footprint.kv_bytes(plan.kv_tokens)), per_token)
    note = "the least that a share must hold" if plan.fit is None else f"with {plan.fit.need.max_num_seqs} sequences"
    table.add_row("    needed", _gib(plan.needed_bytes), note, style="bold")
    console.print(table)
    if isinstance(demand, Demand) and not isinstance(demand.model, ModelUnknown) and demand.model.weights_note:
        _warn(console, demand.model.weights_note)


def _warn(console: Console, what: str) -> None:
    console.print(Padding(Text(f"warning: {what}", style="yellow"), (0, 0, 0, 2), expand=False))


def _indented(line: str) -> Padding:
    return Padding(Text(line), (0, 0, 0, 2), expand=False)


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


def offers_of(answer: Answer) -> list[str]:
    """Need against offer, once for each kind of share in the plan; running replicas keep the share they have."""
    plan = answer.plan
    placements = [create.placement for create in plan.creates] + [placement for placement, _ in plan.waiting]
    shares: dict[str, list[str]] = {}
    for placement in placements:
        share = placement.share
        shares.setdefault(f"{describe_share(share)} of {_gib(limit_bytes(share))}", []).append(placement.where)
    lines = [f"{len(nodes)} x {text}, on {_names(nodes)}" for text, nodes in shares.items()]
    running: dict[str, list[str]] = {}
    for state in plan.states:
        if state.counts:
            running.setdefault(state.share, []).append(state.node or "no node yet")
    lines += [f"{len(nodes)} x {share} running or starting, on {_names(nodes)}" for share, nodes in running.items()]
    demand = plan.deployment.demand
    stated = isinstance(demand, Demand) and demand.max_per_gpu is not None
    if plan.per_gpu > 1:
        lines.append(f"{plan.per_gpu} {'on one GPU, as maxPerGPU asks' if stated else 'fit and pay on one GPU'}")
    return lines


def print_decision(console: Console, used: UsedFit) -> None:
    """What pays on a GPU of a kind in use, by prediction, and why."""
    fit = used.fit
    flags = " ".join(f"{flag}={value}" for flag, value in plan_flags(fit.settings).items())
    console.print(_indented(f"on {used.product}, {used.share}: {flags}"))
    if isinstance(fit.choice, Choice):
        console.print(_indented(f"predicted for one GPU with {_replicas(fit.choice)}: {_figures(fit.choice)}"))
    if fit.carries is False:
        _warn(console, "the load is more than the GPU answers within the bounds, by prediction")
    for reason in fit.reasons:
        console.print(_indented(f"  {reason}"))


def _figures(choice: Choice) -> str:
    gpu = choice.prediction
    return ", ".join(
        (
            f"{describe_interval(gpu.throughput_tok_s, unit='tokens/s')} {gpu.throughput_tok_s.basis.value}",
            f"ITL {describe_interval(gpu.tenants[0].itl_s.scaled(1000), unit='ms')}",
            f"{describe_interval(gpu.power_w, unit='W')} {gpu.power_w.basis.value}",
        )
    )


def _replicas(choice: Choice) -> str:
    count = choice.replicas_per_gpu
    return f"{count} {'replica' if count == 1 else 'replicas'} of {choice.max_num_seqs} sequences"


def _names(nodes: Sequence[str]) -> str:
    names = sorted(set(nodes))
    rest = f" and {len(names) - NAMED_NODES} more" if len(names) > NAMED_NODES else ""
    return ", ".join(names[:NAMED_NODES]) + rest


def _print_picture(console: Console, bars: Sequence[GpuBar], *, what_if: bool) -> None:
    shown = [bar for bar in bars if bar.blocks] if what_if else list(bars)
    if not bars:
        console.print(Text("No node with a GPU is there.", style="yellow"))
    elif shown:
        console.print(draw_bars(shown, width=console.width, glyphs=glyphs_of(console)))
    if len(shown) < len(bars):
        others = f"{len(bars) - len(shown)} {'other ' if shown else ''}kinds of GPU in the catalogue stay empty"
        console.print(Text(others, style="dim"))
    if any(bar.index_basis == "assumed" for bar in shown):
        note = "GPU indices are assumed: the kubelet picks the GPU and publishes it nowhere."
        console.print(Text(note, style="dim"))


def _print_reasons(console: Console, given: Sequence[Answer]) -> None:
    for answer in given:
        key = str(answer.plan.deployment.key)
        for problem, message, count in answer.reasons:
            line = Text(f"\n{key}: ", style="bold")
            if count:
                line.append(f"{count} unplaced, ", style="red")
            line.append(f"{problem.reason.value}: ", style="red")
            line.append(message, style="not bold")
            console.print(line)


def _print_ends(console: Console, plan: ClusterPlan, world: World) -> None:
    """Rollouts and the pods that would end now."""
    for deployment in plan.deployments:
        state = deployment.rollout.problem
        if deployment.deployment.key in world.asked and state.reason in ROLLOUTS:
            console.print(Text(f"\n{deployment.deployment.key}: {state.reason.value}: {state.message}"))
    for action in plan.actions:
        if not isinstance(action, CreatePod) and action.deployment in world.asked:
            why = f"{action.problem.reason.value}: {action.problem.message}"
            console.print(Text(f"\n{action.pod} would {_verb(action)} now: {why}"))


def _verb(action: DeletePod | EndPod | SetEngines) -> str:
    if not isinstance(action, SetEngines):
        return "end"
    engines = ", ".join(map(str, action.running))
    return f"run engine {engines}" if len(action.running) == 1 else f"run engines {engines}"
