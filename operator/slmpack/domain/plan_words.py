"""Sentences about a plan, said alike in the terminal and on the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slmpack.domain.answer import Answer
from slmpack.domain.choice import Choice
from slmpack.domain.interval import describe_interval
from slmpack.domain.plan import ClusterPlan, CreatePod, DeletePod, EndPod, SetEngines
from slmpack.domain.quantity import GIB
from slmpack.domain.reasons import Reason
from slmpack.domain.sharing import describe_share, limit_bytes
from slmpack.domain.snapshot import Demand, Key, ModelUnknown
from slmpack.domain.wording import number_of

__all__ = [
    "ASSUMED_INDICES",
    "MEANING",
    "NOT_CARRIED",
    "NO_NODES",
    "WHAT_IF_NOTE",
    "describe_prediction",
    "ends_of",
    "gib",
    "offers_of",
    "predicted_for",
    "unknown_model",
]

NAMED_NODES = 5
ROLLOUTS = frozenset({Reason.ROLLING_OUT, Reason.ROLLOUT_STOPPED, Reason.ROLLOUT_BLOCKED})
WHAT_IF_NOTE = (
    "No nodes are given: this is what would happen with one empty, whole GPU of each kind in the catalogue (no MIG, no"
    " MPS). Add your own with -f nodes.yaml (kubectl get nodes -o yaml) or --cluster. `slmpack estimate"
    " MODEL --all-gpus` compares them."
)
NO_NODES = "No node with a GPU is there."
ASSUMED_INDICES = "GPU indices are assumed: the kubelet picks the GPU and publishes it nowhere."
NOT_CARRIED = "the load is more than the GPU answers within the bounds, by prediction"
MEANING = {
    "ready": "ready",
    "starting": "starting",
    "planned": "starts now",
    "waiting": "starts later, one at a time",
    "ending": "ending",
    "foreign": "another's pod",
    "idle": "engine of a pack that does not run",
}
"""By state of a block."""


def gib(size: int) -> str:
    """Bytes in GiB, to a hundredth."""
    return f"{size / GIB:.2f} GiB"


def offers_of(answer: Answer) -> list[str]:
    """Need against offer, once for each kind of share in the plan; running replicas keep the share they have."""
    plan = answer.plan
    placements = [create.placement for create in plan.creates] + [placement for placement, _ in plan.waiting]
    shares: dict[str, list[str]] = {}
    for placement in placements:
        share = placement.share
        shares.setdefault(f"{describe_share(share)} of {gib(limit_bytes(share))}", []).append(placement.where)
    lines = [f"{len(nodes)} x {text}, on {_names(nodes)}" for text, nodes in shares.items()]
    running: dict[str, list[str]] = {}
    for state in plan.states:
        if state.counts:
            running.setdefault(state.share, []).append(state.node or "no node yet")
    lines += [f"{len(nodes)} x {share} running or starting, on {_names(nodes)}" for share, nodes in running.items()]
    demand = plan.deployment.demand
    stated = isinstance(demand, Demand) and demand.max_per_gpu is not None
    if plan.per_gpu > 1:
        pays = plan.fit is not None and isinstance(plan.fit.choice, Choice)
        how = "fit and pay on one GPU" if pays else "fit on one GPU, how many pay is not known"
        lines.append(f"{plan.per_gpu} {'on one GPU, as maxPerGPU asks' if stated else how}")
    return lines


def unknown_model(answer: Answer) -> str:
    """What is not said where running replicas are all that is known of a model; empty where its config is known.

    Empty, too, where the model is why replicas have no place: then that is said already.
    """
    plan = answer.plan
    model = plan.deployment.demand.model if isinstance(plan.deployment.demand, Demand) else None
    if plan.footprint is None or not isinstance(model, ModelUnknown):
        return ""
    if any(problem.reason is model.reason for problem, _, _ in answer.reasons):
        return ""
    return (
        "what pays, the knee and the batch are not known; memory is as replicas were started with, and their KV cache"
        f" the least that would do. {model.reason.value}: {model.message}"
    )


def _names(nodes: Sequence[str]) -> str:
    names = sorted(set(nodes))
    rest = f" and {len(names) - NAMED_NODES} more" if len(names) > NAMED_NODES else ""
    return ", ".join(names[:NAMED_NODES]) + rest


def describe_prediction(choice: Choice) -> str:
    """What one GPU does with the replicas that pay: their number and batch, speed, latency, watts."""
    gpu = choice.prediction
    figures = ", ".join(
        (
            f"{describe_interval(gpu.throughput_tok_s, unit='tokens/s')} {gpu.throughput_tok_s.basis.value}",
            f"ITL {describe_interval(gpu.tenants[0].itl_s.scaled(1000), unit='ms')}",
            f"{describe_interval(gpu.power_w, unit='W')} {gpu.power_w.basis.value}",
        )
    )
    return f"{predicted_for(choice)}: {figures}"


def predicted_for(choice: Choice) -> str:
    """What a prediction is of."""
    replicas = f"{number_of(choice.replicas_per_gpu)} of {choice.max_num_seqs} sequences"
    return f"predicted for one GPU with {replicas}"


def ends_of(plan: ClusterPlan, asked: frozenset[Key]) -> Iterator[str]:
    """Rollouts, and the pods that would end now."""
    for deployment in plan.deployments:
        state = deployment.rollout.problem
        if deployment.deployment.key in asked and state.reason in ROLLOUTS:
            yield f"{deployment.deployment.key}: {state.reason.value}: {state.message}"
    for action in plan.actions:
        if not isinstance(action, CreatePod) and action.deployment in asked:
            why = f"{action.problem.reason.value}: {action.problem.message}"
            yield f"{action.pod} would {_verb(action)} now: {why}"


def _verb(action: DeletePod | EndPod | SetEngines) -> str:
    if not isinstance(action, SetEngines):
        return "end"
    engines = ", ".join(map(str, action.running))
    return f"run engine {engines}" if len(action.running) == 1 else f"run engines {engines}"
