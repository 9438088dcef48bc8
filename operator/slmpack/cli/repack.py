"""`slmpack plan --repack`: which running replicas could be moved so that GPUs come free."""

from __future__ import annotations

from shlex import quote
from typing import Any

from rich.console import Console
from rich.text import Text

from slmpack.cli.figures import figure
from slmpack.cli.one_line import one_line
from slmpack.domain.interval import describe_interval
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.repack import Repack, is_calm
from slmpack.domain.wording import number_of

__all__ = ["print_repack", "repack_to_json"]

Json = dict[str, Any]


def repack_to_json(repack: Repack | None) -> Json | None:
    """None where no move frees a GPU."""
    if repack is None:
        return None
    return {
        "gpus": repack.gpus,
        "power_w": None if repack.power_w is None else figure(repack.power_w),
        "moves": [
            {
                "pod": str(move.pod),
                "deployment": str(move.deployment),
                "node": move.node,
                "to": list(move.to),
            }
            for move in repack.moves
        ],
        "freed": [
            {
                "node": freed.node,
                "product": freed.product,
                "gpus": freed.gpus,
                "power_w": None if freed.power_w is None else figure(freed.power_w),
            }
            for freed in repack.freed
        ],
    }


def print_repack(console: Console, repack: Repack | None, plan: ClusterPlan) -> None:
    """The advice with the commands that carry it out; nothing here runs them."""
    console.print(Text("\nrepack", style="bold"))
    if repack is None:
        console.print(Text(f"  {_why_none(plan)}"))
        return
    for freed in repack.freed:
        where = f"{one_line(freed.node)} ({one_line(freed.product)})"
        power = "" if freed.power_w is None else f", {describe_interval(freed.power_w, unit='W')} estimated"
        console.print(Text(f"  frees {number_of(freed.gpus, 'GPU')} of node {where}{power}"))
    for move in repack.moves:
        moved = f"ends {move.pod} on {move.node}; its replicas start anew on {', '.join(move.to)}"
        console.print(Text(f"  {one_line(moved)}"))
    console.print(Text("  The operator moves nothing. To do it, run these, and wait after each delete until"))
    console.print(Text("  the SLMDeployment is Ready again (a replica less answers meanwhile):"))
    for node in (freed.node for freed in repack.freed):
        console.print(Text(f"    kubectl cordon {_word(node)}"))
    for move in repack.moves:
        console.print(Text(f"    kubectl delete pod -n {_word(move.pod.namespace)} {_word(move.pod.name)}"))
    for node in (freed.node for freed in repack.freed):
        console.print(Text(f"    kubectl uncordon {_word(node)}"))


def _word(name: str) -> str:
    """A name as one word of a command that somebody copies."""
    return quote(one_line(name))


def _why_none(plan: ClusterPlan) -> str:
    if not is_calm(plan):
        return "The plan has work to do, or replicas start; ask again when all of them are Ready."
    return "No move of running replicas would free a GPU."
