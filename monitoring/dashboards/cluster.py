"""The cluster: what is on its GPUs, what has found no room and why, and whether the operator is well."""

from __future__ import annotations

from monitoring.dashboards.health import OPERATOR
from monitoring.dashboards.spec import Board, Kind, Panel, Query, Row, Variable

__all__ = ["CLUSTER"]

NODE = 'node=~"$node"'


def _gpus(state: str) -> Query:
    return Query(text=f'sum by (unit) (slmpack_gpus{{{NODE},state="{state}"}})', legend=f"{state} {{{{unit}}}}")


def _column(state: str) -> Query:
    return Query(text=f'sum by (node) (slmpack_gpus{{{NODE},state="{state}"}})', legend=f"GPUs {state}")


NOW = Row(
    title="Now",
    panels=(
        Panel(
            kind=Kind.STAT,
            title="GPUs and MIG slices",
            says=(
                "Used: a replica runs or starts there. Held: others' pods, replicas that end, or room kept for replicas"
                " that start later. Free: nothing. Of shared GPUs nobody publishes which pod is on which; blocks are"
                " dealt out as the device plugin would."
            ),
            do="No GPU free and replicas without room: see the row below, or `slmpack plan` for what would fit.",
            queries=(_gpus("used"), _gpus("held"), _gpus("free")),
            width=8,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Replicas",
            says="Over all SLMDeployments: wanted, and ready to answer.",
            do="Ready stays below wanted: the row “No room, refused” says which and why.",
            queries=(
                Query(text='sum(slmpack_replicas{state="desired"})', legend="wanted"),
                Query(text='sum(slmpack_replicas{state="ready"})', legend="ready"),
            ),
            width=4,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Without room",
            says="Replicas that are wanted and placed nowhere.",
            do="Look up the reason in docs/reasons.md, section Room.",
            queries=(Query(text="sum(slmpack_unplaced_replicas)", legend="replicas"),),
            steps=((1, "orange"),),
            none="none",
            width=4,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Starts",
            says="Replicas that start now, and those that wait for their turn: on shared GPUs one starts at a time.",
            do=(
                "Starting for longer than a start takes: `kubectl describe` the pod; docs/reasons.md, Starting and"
                " running."
            ),
            queries=(
                Query(text=f'sum(slmpack_node_replicas{{{NODE},state="starting"}})', legend="under way"),
                Query(text=f'sum(slmpack_node_replicas{{{NODE},state=~"planned|waiting"}})', legend="to come"),
            ),
            none="none",
            width=4,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Alerts",
            says="slmpack's alerts that fire now (monitoring/rules). Only where Prometheus evaluates these rules.",
            do="Each alert's annotation `runbook` names the page that says what to do.",
            queries=(
                Query(
                    text='count by (alertname) (ALERTS{alertname=~"Slmpack.+",alertstate="firing"})',
                    legend="{{alertname}}",
                ),
            ),
            steps=((1, "red"),),
            none="none",
            width=4,
            height=5,
        ),
    ),
)
PACKING = Row(
    title="Packing",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="GPUs and MIG slices by state",
            says="Used, held and free, over time.",
            do="Held for long without anything starting: others' pods use these GPUs, or a pod hangs in Terminating.",
            queries=(Query(text=f"sum by (state) (slmpack_gpus{{{NODE}}})", legend="{{state}}"),),
            stacked=True,
            least=0,
            decimals=0,
        ),
        Panel(
            kind=Kind.LINES,
            title="Replicas per GPU in use, by node",
            says=(
                "Replicas that run or start, over GPUs (or slices) in use: a mean, as nobody publishes which GPU a"
                " share is of."
            ),
            do="1 on GPUs that could be shared: `slmpack explain` says whether a second replica would pay.",
            queries=(
                Query(
                    text=(
                        f'sum by (node) (slmpack_node_replicas{{{NODE},state=~"ready|starting"}})'
                        f' / (sum by (node) (slmpack_gpus{{{NODE},state="used"}}) > 0)'
                    ),
                    legend="{{node}}",
                ),
            ),
            least=0,
        ),
        Panel(
            kind=Kind.LINES,
            title="Replicas on nodes by state",
            says=(
                "What is on the nodes' GPUs. Foreign: shares that others' pods hold. Idle: engines of a pack that do"
                " not run."
            ),
            do="Many ending for long: a pod hangs in Terminating, and its share is not given away before it has gone.",
            queries=(Query(text=f"sum by (state) (slmpack_node_replicas{{{NODE}}})", legend="{{state}}"),),
            stacked=True,
            least=0,
            decimals=0,
        ),
        Panel(
            kind=Kind.LINES,
            title="Replicas that pay on one GPU (prediction)",
            says=(
                "By SLMDeployment, on the kind of GPU it uses: the smaller of what fits and what pays. No measurement."
            ),
            do="Fewer than you expect: `slmpack explain NAME` gives the gain of one more; docs/deciding.md.",
            queries=(
                Query(
                    text="max by (namespace, name) (slmpack_replicas_per_gpu)",
                    legend="{{namespace}}/{{name}}",
                ),
            ),
            least=0,
            decimals=0,
        ),
        Panel(
            kind=Kind.TABLE,
            title="Nodes",
            says="GPUs (or slices) by state, replicas, and watts of each node: of all its GPUs, whoever uses them.",
            do=(
                "A node that should be here and is not: see “GPUs that are not offered”, and the operator's"
                " --node-selector."
            ),
            queries=(
                _column("used"),
                _column("held"),
                _column("free"),
                Query(
                    text=f'sum by (node) (slmpack_node_replicas{{{NODE},state=~"ready|starting"}})',
                    legend="Replicas",
                ),
                Query(
                    text=(
                        'sum by (node) (label_replace(gpu:power_watts:mean5m{Hostname=~"$node"},'
                        ' "node", "$1", "Hostname", "(.+)"))'
                    ),
                    legend="Watts",
                ),
            ),
            width=24,
        ),
    ),
)
ROOM = Row(
    title="No room, refused",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Replicas without room, by reason",
            says="DoesNotPay: they would fit, but a GPU's throughput would not rise. The rest found no place at all.",
            do="docs/reasons.md, section Room, says what would help for each reason.",
            queries=(Query(text="sum by (reason) (slmpack_unplaced_replicas)", legend="{{reason}}"),),
            stacked=True,
            least=0,
            decimals=0,
            none="none",
        ),
        Panel(
            kind=Kind.TABLE,
            title="Who has no room",
            says="Replicas without room now, by SLMDeployment and reason.",
            do="Follow the name to its dashboard; `kubectl describe slmdeployment` has the sentence with the numbers.",
            queries=(Query(text="sum by (namespace, name, reason) (slmpack_unplaced_replicas)", legend="Replicas"),),
            none="none",
            link="name",
        ),
        Panel(
            kind=Kind.LINES,
            title="Held back because it does not pay",
            says=(
                "Replicas that a fixed number asks for and that do not pay on the GPUs there are; and 1 where scaling"
                " up is refused for that reason. By prediction, with its error: uncertain counts as does not pay."
            ),
            do="Add a GPU, state the workload, measure a profile (docs/profiling.md), or set spec.sharing.maxPerGPU.",
            queries=(
                Query(
                    text='sum by (namespace, name) (slmpack_unplaced_replicas{reason="DoesNotPay"})',
                    legend="{{namespace}}/{{name}} without room",
                ),
                Query(
                    text='max by (namespace, name) (slmpack_scale_refused{reason="DoesNotPay"})',
                    legend="{{namespace}}/{{name}} scaling refused",
                ),
            ),
            least=0,
            decimals=0,
            none="none",
        ),
        Panel(
            kind=Kind.STATES,
            title="Scaling up refused",
            says="The load asks for more replicas than are wanted, and this is why: AtMax, PowerCeiling or DoesNotPay.",
            do="AtMax: raise spec.scaling.max. PowerCeiling: raise maxWattsPerGPU, or add a GPU. docs/scaling.md.",
            queries=(
                Query(
                    text="max by (namespace, name, reason) (slmpack_scale_refused)",
                    legend="{{namespace}}/{{name}} {{reason}}",
                ),
            ),
            values={"1": ("refused", "orange")},
            none="none",
        ),
        Panel(
            kind=Kind.LINES,
            title="SLMDeployments by reason",
            says="How many give which reason in their condition Ready. AllReady is the good one.",
            do="docs/reasons.md explains each.",
            queries=(Query(text="count by (reason) (slmpack_reason)", legend="{{reason}}"),),
            stacked=True,
            least=0,
            decimals=0,
        ),
        Panel(
            kind=Kind.TABLE,
            title="GPUs that are not offered",
            says="Nodes with GPUs that are offered to nobody, or not all of them, and why.",
            do="docs/reasons.md, section Room: time-sliced, unknown, wrongly cut or not advertised GPUs.",
            queries=(Query(text=f"max by (node, reason) (slmpack_node_refused{{{NODE}}})", legend="Refused"),),
            none="none",
            hide=("Refused",),
        ),
    ),
)
POWER = Row(
    title="Power",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Watts per node",
            says="Measured by dcgm-exporter, of all the node's GPUs, whoever uses them.",
            do="A node is missing: is dcgm-exporter on it, and scraped? Ceilings there rest on the model alone.",
            queries=(
                Query(text='sum by (Hostname) (gpu:power_watts:mean5m{Hostname=~"$node"})', legend="{{Hostname}}"),
            ),
            unit="watt",
            stacked=True,
            least=0,
        ),
        Panel(
            kind=Kind.LINES,
            title="Joules per generated token, cluster",
            says="Measured watts of the GPUs that engines use, idle ones included, over all generated tokens.",
            do="It rises while load falls: replicas idle. See the dashboard Power for which GPUs.",
            queries=(Query(text="slmpack:joules_per_token:mean5m", legend="J per token"),),
            unit="joule",
            least=0,
        ),
    ),
)
CLUSTER = Board(
    uid="slmpack-cluster",
    title="slmpack / Cluster",
    says=(
        "What is on the cluster's GPUs, what has found no room and why, what it draws, and whether the operator is"
        " well."
    ),
    variables=(
        Variable(
            name="node",
            label="Node",
            says="Nodes with GPUs.",
            series="slmpack_gpus",
            of="node",
            several=True,
        ),
    ),
    rows=(NOW, PACKING, ROOM, POWER, OPERATOR),
)
