"""Power: what each GPU draws, against its ceiling; what is spent idle; what a token costs; and GPUs in trouble."""

from __future__ import annotations

from monitoring.dashboards.spec import Board, Kind, Line, Mark, Panel, Query, Row, Variable
from slmpack.adapters.metric_names import MetricNames

__all__ = ["POWER"]

NODE = 'Hostname=~"$node"'
GPU = "{{Hostname}} GPU {{gpu}}"
KILOWATT_HOUR = 3_600_000
"""Joules."""
BY_GPU = "Hostname, UUID, gpu, modelName"
IDLE = f"gpu:power_watts:mean5m{{{NODE}}} unless on (Hostname, UUID) gpu:slmpack_power_watts:mean5m"
LAST_XID = " or ".join(f"max by ({BY_GPU}) ({name}{{{NODE}}})" for name in MetricNames().gpu.xid)

NOW = Row(
    title="Now",
    panels=(
        Panel(
            kind=Kind.STAT,
            title="All GPUs",
            says="Watts of every GPU that dcgm-exporter tells of, whoever uses it.",
            do="A node is missing in the list above: dcgm-exporter is not on it, or is not scraped.",
            queries=(Query(text=f"sum(gpu:power_watts:mean5m{{{NODE}}})", legend="watts"),),
            unit="watt",
            width=5,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="GPUs with our engines",
            says="Watts of the GPUs that dcgm-exporter attributes to a replica's pod.",
            do="Less than you know runs: see monitoring/README.md, Which GPUs are ours.",
            queries=(Query(text=f"sum(gpu:slmpack_power_watts:mean5m{{{NODE}}})", legend="watts"),),
            unit="watt",
            width=5,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="GPUs without our engines",
            says="Watts of all other GPUs: idle ones, and those that others use.",
            do="Idle GPUs draw tens of watts each. Scale the node pool down, or let others use them.",
            queries=(Query(text=f"sum({IDLE})", legend="watts"),),
            unit="watt",
            none="every GPU has one",
            width=5,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Joules per generated token, cluster",
            says=(
                "Of everything together: measured watts of GPUs with our engines, idle time included, over generated"
                " tokens."
            ),
            do="spec.objective: Energy packs for the fewest watts; docs/deciding.md.",
            queries=(Query(text="slmpack:joules_per_token:mean5m", legend="J per token"),),
            unit="joule",
            none="no token was generated",
            width=5,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Energy in the last hour",
            says=(
                "Of all GPUs, by their energy counters. Too low where the pods on a GPU changed within the hour: its"
                " series then begins anew."
            ),
            do="Compare before and after a change of spec.objective or of the ceilings.",
            queries=(Query(text=f"sum(gpu:energy_joules:increase1h{{{NODE}}}) / {KILOWATT_HOUR}", legend="energy"),),
            unit="kwatth",
            width=4,
            height=5,
        ),
    ),
)
WATTS = Row(
    title="Watts",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Watts of each GPU",
            says=(
                "Mean over 5 minutes: by the energy counter, else (for the first minutes, and after a change of the"
                " GPU's pods) by the power gauge. Of the board, whoever uses it."
            ),
            do="A GPU at its cap slows down: what is predicted for it no longer holds.",
            queries=(Query(text=f"gpu:power_watts:mean5m{{{NODE}}}", legend=GPU),),
            unit="watt",
            least=0,
            height=9,
        ),
        Panel(
            kind=Kind.LINES,
            title="The hottest GPU of each SLMDeployment, against its ceiling",
            says="Measured watts of the hottest GPU that a replica is on; and spec.scaling.maxWattsPerGPU.",
            do=(
                "Above: the ceiling bounds how many replicas are added, it does not slow what runs. Alert"
                " SlmpackPowerAboveCeiling."
            ),
            queries=(
                Query(text="slmdeployment:hottest_gpu_watts:mean5m", legend="{{namespace}}/{{slmdeployment}}"),
                Query(
                    text="max by (namespace, name) (slmpack_max_watts_per_gpu)",
                    legend="ceiling of {{namespace}}/{{name}}",
                ),
            ),
            unit="watt",
            least=0,
            lines={"/^ceiling of/": Line.LIMIT},
            height=9,
        ),
        Panel(
            kind=Kind.LINES,
            title="Watts without our engines",
            says="GPUs on which no engine of ours runs: idle ones, and those that others use.",
            do="Steady and low: idle. `slmpack plan` shows which GPUs are free.",
            queries=(Query(text=IDLE, legend=GPU),),
            unit="watt",
            stacked=True,
            least=0,
            none="every GPU has one",
        ),
        Panel(
            kind=Kind.LINES,
            title="Busy part of the time",
            says="Part of the time with a kernel on the GPU (not its efficiency; it never tells the knee).",
            do=(
                "Watts high and busy low: others on the GPU, or clocks that do not fall. MIG instances are not told"
                " here."
            ),
            queries=(
                Query(text=f"gpu:gr_engine_active:mean5m{{{NODE}}}", legend=GPU),
                Query(text=f"gpu:dram_active:mean5m{{{NODE}}}", legend=f"{GPU} memory"),
            ),
            unit="percentunit",
            least=0,
            most=1,
            lines={"/ memory$/": Line.DASHED},
        ),
    ),
)
TOKENS = Row(
    title="What a token costs",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Joules per generated token",
            says=(
                "The cluster's is measured. An SLMDeployment's is an estimate: a node's watts split by generated"
                " tokens."
            ),
            do=(
                "It falls with load, as idle watts are spread over more tokens. Rising at equal load: replicas to"
                " spare."
            ),
            queries=(
                Query(text="slmpack:joules_per_token:mean5m", legend="cluster"),
                Query(
                    text="slmdeployment:joules_per_token_estimate:mean5m",
                    legend="{{namespace}}/{{slmdeployment}} (estimate)",
                ),
            ),
            unit="joule",
            least=0,
            lines={"/ \\(estimate\\)$/": Line.DASHED},
        ),
        Panel(
            kind=Kind.LINES,
            title="Generated tokens by node",
            says="Tokens a second, over 5 minutes.",
            do="Tokens low and watts high on a node: its replicas idle, or others use its GPUs.",
            queries=(
                Query(
                    text='sum by (node) (slmdeployment_node:generation_tokens_per_second:rate5m{node=~"$node"})',
                    legend="{{node}}",
                ),
            ),
            unit="suffix: tokens/s",
            stacked=True,
            least=0,
        ),
        Panel(
            kind=Kind.LINES,
            title="GPU memory in use",
            says="As dcgm-exporter has it, of the whole GPU. MIG instances are not told here.",
            do="Near the GPU's size on a shared GPU: a stranger uses it beside ours; the next start may fail.",
            queries=(Query(text=f"gpu:fb_used_bytes:max{{{NODE}}}", legend=GPU),),
            unit="bytes",
            least=0,
        ),
        Panel(
            kind=Kind.LINES,
            title="Watts of each SLMDeployment (estimate)",
            says="An estimate: the watts of a node's GPUs that engines use, split by generated tokens.",
            do="For comparing with each other; for a bill, use the measured watts of GPUs.",
            queries=(
                Query(
                    text="slmdeployment:power_watts_estimate:mean5m",
                    legend="{{namespace}}/{{slmdeployment}} (estimate)",
                ),
            ),
            unit="watt",
            stacked=True,
            least=0,
        ),
    ),
)
TROUBLE = Row(
    title="GPUs in trouble",
    panels=(
        Panel(
            kind=Kind.TABLE,
            title="New XID errors",
            says="GPUs whose XID changed in the last 10 minutes, and its code. The same code twice does not show.",
            do=(
                "NVIDIA's documentation of XID errors says what a code means. Under MPS it ends every engine on the"
                " GPU: drain the node."
            ),
            queries=(Query(text=f"gpu:xid:new10m{{{NODE}}}", legend="XID"),),
            none="none",
            hide=("__name__",),
        ),
        Panel(
            kind=Kind.TABLE,
            title="Last XID of each GPU",
            says=(
                "The gauge keeps the last code for good, also one from before the operator was there; 0: none since the"
                " driver was loaded."
            ),
            do="An old code is no cause to act by itself; compare with the time of the marks.",
            queries=(Query(text=LAST_XID, legend="Last XID"),),
            steps=((1, "orange"),),
        ),
    ),
)
POWER = Board(
    uid="slmpack-power",
    title="slmpack / Power",
    says="What each GPU draws, against its ceiling; what is spent idle; what a generated token costs; GPUs in trouble.",
    variables=(
        Variable(
            name="node",
            label="Node",
            says="Nodes of which dcgm-exporter tells.",
            series="gpu:power_watts:mean5m",
            of="Hostname",
            several=True,
        ),
    ),
    rows=(NOW, WATTS, TOKENS, TROUBLE),
    marks=(
        Mark(
            name="XID errors", text=f"gpu:xid:new10m{{{NODE}}}", title="XID of {{Hostname}} GPU {{gpu}}", colour="red"
        ),
    ),
)
