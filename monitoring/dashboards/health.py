"""Whether the operator is well: a row of the cluster's dashboard."""

from __future__ import annotations

from monitoring.dashboards.spec import Kind, Line, Panel, Query, Row

__all__ = ["OPERATOR"]

TURNS = "rate(slmpack_turn_seconds_bucket[$__rate_interval])"
OPERATOR = Row(
    title="Operator",
    panels=(
        Panel(
            kind=Kind.STAT,
            title="Since the last turn",
            says="The operator plans at least every 15 s; a standby turns, too.",
            do="Over 2 minutes: nothing is scaled, placed or healed. What runs goes on. Read the operator's log.",
            queries=(Query(text="time() - max(slmpack_last_turn_timestamp_seconds)", legend="age"),),
            unit="s",
            steps=((60, "orange"), (120, "red")),
            width=4,
        ),
        Panel(
            kind=Kind.LINES,
            title="Turns by result",
            says="Turns of the planning loop a second: ok, failed, or standby (another operator holds the Lease).",
            do="failed: the log names the error; a turn that fails is tried again. Only standby: no operator leads.",
            queries=(Query(text="sum by (result) (rate(slmpack_turns_total[$__rate_interval]))", legend="{{result}}"),),
            unit="ops",
            stacked=True,
            least=0,
            width=10,
        ),
        Panel(
            kind=Kind.LINES,
            title="How long a turn takes",
            says="Median and 95th percentile of a turn, with all its writes.",
            do=(
                "Seconds: the API server is slow or throttles, or the cluster is larger than tested"
                " (docs/operating.md)."
            ),
            queries=tuple(
                Query(
                    text=f"histogram_quantile({part}, sum by (le) ({TURNS}))",
                    legend=name,
                )
                for part, name in ((0.5, "median"), (0.95, "p95"))
            ),
            unit="s",
            least=0,
            width=10,
        ),
        Panel(
            kind=Kind.LINES,
            title="Writes to the API server",
            says=(
                "By kind. A world that does not change is not written to, but for the Lease (which is not counted"
                " here)."
            ),
            do="Writes that never end while nothing changes: something fights the operator; compare managedFields.",
            queries=(Query(text="sum by (kind) (rate(slmpack_writes_total[$__rate_interval]))", legend="{{kind}}"),),
            unit="ops",
            stacked=True,
            least=0,
            width=8,
        ),
        Panel(
            kind=Kind.LINES,
            title="Memory and CPU",
            says="Of the operator's process: resident bytes (left), cores (right).",
            do="Near the limit of its container: raise `resources` of the chart.",
            queries=(
                Query(
                    text=("process_resident_memory_bytes and on (job, instance) slmpack_last_turn_timestamp_seconds"),
                    legend="memory",
                ),
                Query(
                    text=(
                        "rate(process_cpu_seconds_total[$__rate_interval]) and on (job, instance)"
                        " slmpack_last_turn_timestamp_seconds"
                    ),
                    legend="cores",
                ),
            ),
            unit="bytes",
            least=0,
            lines={"cores": Line.RIGHT},
            width=8,
        ),
        Panel(
            kind=Kind.STATES,
            title="Load known",
            says=(
                "Whether all was measured that scaling needs. Unknown holds the number of replicas; it never scales"
                " down."
            ),
            do="`slmpack explain NAME` says what is missing; docs/metrics.md, Unknown is not zero.",
            queries=(Query(text="max by (namespace, name) (slmpack_metrics_known)", legend="{{namespace}}/{{name}}"),),
            values={"0": ("unknown, held", "orange"), "1": ("known", "green")},
            none="no SLMDeployment has spec.scaling",
            width=8,
        ),
    ),
)
