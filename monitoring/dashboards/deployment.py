"""One SLMDeployment: its load, what carries it, what was decided, and how fast and how dear it answers."""

from __future__ import annotations

from monitoring.dashboards.spec import Board, Kind, Line, Mark, Panel, Query, Row, Variable
from slmpack.adapters.metric_names import MetricNames

__all__ = ["DEPLOYMENT"]

OPERATOR = 'namespace="$namespace",name="$name"'
ENGINES = 'namespace="$namespace",slmdeployment="$name"'
NAMES = MetricNames().engine
QUANTILES = ((0.5, "median"), (0.95, "p95"), (0.99, "p99"))


def _quantiles(names: tuple[str, ...]) -> tuple[Query, ...]:
    rates = " or ".join(f"rate({name}_bucket{{{ENGINES}}}[$__rate_interval])" for name in names)
    return tuple(
        Query(text=f"histogram_quantile({part}, sum by (le) ({rates}))", legend=legend) for part, legend in QUANTILES
    )


def _bound(of: str) -> Query:
    return Query(text=f'max(slmpack_latency_bound_seconds{{{OPERATOR},of="{of}"}})', legend="bound")


def _state(state: str, legend: str) -> Query:
    return Query(text=f'max(slmpack_replicas{{{OPERATOR},state="{state}"}})', legend=legend)


NOW = Row(
    title="Now",
    panels=(
        Panel(
            kind=Kind.STAT,
            title="Reason",
            says="What its condition Ready says.",
            do="Anything but AllReady: `kubectl describe slmdeployment $name -n $namespace`, and docs/reasons.md.",
            queries=(Query(text=f"max by (reason) (slmpack_reason{{{OPERATOR}}})", legend="{{reason}}"),),
            names=True,
            width=6,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Wanted, ready",
            says="Replicas that are wanted, and those that are ready to answer.",
            do="Ready below wanted: the reason to the left, or replicas without room below.",
            queries=(_state("desired", "wanted"), _state("ready", "ready")),
            width=4,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Load known",
            says="Whether all was measured that scaling needs. Unknown holds the number of replicas.",
            do="`slmpack explain $name -n $namespace` says what is missing; docs/metrics.md, Unknown is not zero.",
            queries=(Query(text=f"max(slmpack_metrics_known{{{OPERATOR}}})", legend="load"),),
            values={"0": ("unknown, held", "orange"), "1": ("known", "green")},
            none="not scaled",
            width=4,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="Pay on one GPU (prediction)",
            says="Replicas of this model that fit and pay on one GPU of the kind in use.",
            do="`slmpack explain $name -n $namespace` gives the gain of one more.",
            queries=(Query(text=f"max(slmpack_replicas_per_gpu{{{OPERATOR}}})", legend="replicas"),),
            none="unknown",
            width=4,
            height=5,
        ),
        Panel(
            kind=Kind.STAT,
            title="A start takes",
            says="Median of the starts that were measured, else assumed. So much earlier must scaling up begin.",
            do="Long: cache the model (spec.model.cache), pull the image ahead of time. docs/scaling.md.",
            queries=(Query(text=f"max(slmpack_start_seconds{{{OPERATOR}}})", legend="start"),),
            unit="s",
            none="not scaled",
            width=6,
            height=5,
        ),
    ),
)
LOAD = Row(
    title="Load and what carries it",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Arrivals, demand, capacity",
            says=(
                "Requests a second. Arrivals are what ended and what there is more of now. Demand is what must be"
                " carried: arrivals, what waits, and peaks that a start would be too late for; above capacity, replicas"
                " are added. Demand to keep is what fewer replicas must carry before any ends. Capacity is predicted,"
                " and corrected by the measured time between tokens."
            ),
            do="Demand stays above capacity: “Scaling up refused” below says why. docs/scaling.md, The decision.",
            queries=(
                Query(text=f"slmdeployment:arrivals_per_second:rate1m{{{ENGINES}}}", legend="arrivals"),
                Query(text=f"max(slmpack_demand_requests_per_second{{{OPERATOR}}})", legend="demand"),
                Query(text=f"max(slmpack_demand_to_keep_requests_per_second{{{OPERATOR}}})", legend="demand to keep"),
                Query(text=f"max(slmpack_capacity_requests_per_second{{{OPERATOR}}})", legend="capacity (predicted)"),
            ),
            unit="reqps",
            least=0,
            lines={"capacity (predicted)": Line.DASHED},
            width=16,
            height=9,
        ),
        Panel(
            kind=Kind.LINES,
            title="Requests running and waiting",
            says="Over all replicas. Waiting: the engines' queues are in use. An alarm only, never a target.",
            do="Waiting for minutes: capacity is less than the load. Alert SlmpackRequestsQueue.",
            queries=(
                Query(text=f"slmdeployment:requests_running:sum{{{ENGINES}}}", legend="running"),
                Query(text=f"slmdeployment:requests_waiting:sum{{{ENGINES}}}", legend="waiting"),
            ),
            least=0,
            width=8,
            height=9,
        ),
    ),
)
DECISIONS = Row(
    title="Replicas and decisions",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Replicas",
            says=(
                "Wished: what the load alone asks for. Wanted: after bounds, pace, power and the unknown. Existing:"
                " pods. Ready: answering. Scraped: engines of which Prometheus has metrics."
            ),
            do="Wished above wanted: see the refusals. Ready above scraped: see Prometheus' targets.",
            queries=(
                Query(text=f"max(slmpack_wished_replicas{{{OPERATOR}}})", legend="wished"),
                _state("desired", "wanted"),
                _state("existing", "existing"),
                _state("ready", "ready"),
                Query(text=f"slmdeployment:replicas_reporting:count{{{ENGINES}}}", legend="scraped"),
            ),
            least=0,
            decimals=0,
            lines={"wished": Line.DASHED},
        ),
        Panel(
            kind=Kind.LINES,
            title="Decisions in the last hour, by reason",
            says=(
                "Decisions whose number or reason differs from that of the one before. An estimate: increase()"
                " extrapolates."
            ),
            do="`kubectl get events` has each with its numbers; docs/reasons.md, section Scaling.",
            queries=(Query(text=f"slmdeployment:scale_decisions:increase1h{{{OPERATOR}}} > 0", legend="{{reason}}"),),
            stacked=True,
            least=0,
            none="none",
        ),
        Panel(
            kind=Kind.STATES,
            title="Scaling up refused",
            says="Why more replicas, though wished, are not wanted.",
            do="AtMax: raise spec.scaling.max. PowerCeiling: raise maxWattsPerGPU or add a GPU. DoesNotPay: add a GPU.",
            queries=(Query(text=f"max by (reason) (slmpack_scale_refused{{{OPERATOR}}})", legend="{{reason}}"),),
            values={"1": ("refused", "orange")},
            none="nothing refused",
            width=8,
            height=6,
        ),
        Panel(
            kind=Kind.LINES,
            title="Replicas without room, by reason",
            says="Wanted, and placed nowhere.",
            do="docs/reasons.md, section Room.",
            queries=(Query(text=f"sum by (reason) (slmpack_unplaced_replicas{{{OPERATOR}}})", legend="{{reason}}"),),
            stacked=True,
            least=0,
            decimals=0,
            none="all have room",
            width=8,
            height=6,
        ),
        Panel(
            kind=Kind.LINES,
            title="Changes of direction in 6 hours",
            says="Up after down, or down after up: each costs a start.",
            do="More than 3: a longer spec.scaling.behaviour.scaleDown.stabilizationWindowSeconds calms it.",
            queries=(Query(text=f"slmdeployment:scale_reversals:increase6h{{{OPERATOR}}}", legend="reversals"),),
            least=0,
            none="not scaled",
            width=8,
            height=6,
        ),
    ),
)
LATENCY = Row(
    title="Latency",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Time to first token",
            says="As the engines measure it: without the gateway and the network. The bound is on the 95th percentile.",
            do="p95 above the bound: requests queue (see Load), or prompts are longer than spec.workload says.",
            queries=(*_quantiles(NAMES.ttft), _bound("ttft")),
            unit="s",
            least=0,
            lines={"bound": Line.LIMIT},
            width=10,
            height=9,
        ),
        Panel(
            kind=Kind.LINES,
            title="Time between tokens",
            says="Inter-token latency. The bound is on the mean. Engines that share a GPU slow each other.",
            do="Mean above the bound: fewer replicas on a GPU (spec.sharing.maxPerGPU), or more GPUs.",
            queries=(
                Query(text=f"slmdeployment:itl_seconds:mean1m{{{ENGINES}}}", legend="mean"),
                *_quantiles(NAMES.itl),
                _bound("itl"),
            ),
            unit="s",
            least=0,
            lines={"bound": Line.LIMIT},
            width=8,
            height=9,
        ),
        Panel(
            kind=Kind.LINES,
            title="Time in the queue",
            says="Mean over a minute, before an engine begins with a request.",
            do="It grows: capacity is less than the load.",
            queries=(Query(text=f"slmdeployment:queue_seconds:mean1m{{{ENGINES}}}", legend="mean"),),
            unit="s",
            least=0,
            width=6,
            height=9,
        ),
    ),
)
ENGINE = Row(
    title="Engines",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="KV cache in use",
            says="By replica: the part of its KV cache that requests in flight hold.",
            do="Near 1 with preemptions: requests are computed twice. A larger share, or more replicas.",
            queries=(
                Query(
                    text="max by (pod) (" + " or ".join(f"{name}{{{ENGINES}}}" for name in NAMES.kv_usage) + ")",
                    legend="{{pod}}",
                ),
            ),
            unit="percentunit",
            least=0,
            most=1,
            steps=((0.9, "orange"), (0.95, "red")),
            width=8,
        ),
        Panel(
            kind=Kind.LINES,
            title="Preemptions",
            says="Requests a second that lose their KV cache and are computed again.",
            do="Not 0: the KV cache is too small for the load.",
            queries=(Query(text=f"slmdeployment:preemptions_per_second:rate1m{{{ENGINES}}}", legend="preemptions"),),
            unit="reqps",
            least=0,
            width=8,
        ),
        Panel(
            kind=Kind.LINES,
            title="Tokens",
            says="Tokens a second over all replicas, of prompts and of answers.",
            do="Nothing wrong here by itself; it is what the watts below are spent on.",
            queries=(
                Query(text=f"slmdeployment:prompt_tokens_per_second:rate1m{{{ENGINES}}}", legend="prompt"),
                Query(text=f"slmdeployment:generation_tokens_per_second:rate1m{{{ENGINES}}}", legend="generated"),
            ),
            unit="suffix: tokens/s",
            least=0,
            width=8,
        ),
    ),
)
ENERGY = Row(
    title="Power and energy",
    panels=(
        Panel(
            kind=Kind.LINES,
            title="Watts (estimate)",
            says=(
                "An estimate: power is measured by GPU, and the watts of a node's GPUs are split over their"
                " SLMDeployments by generated tokens. Prompts and idle replicas are not told apart."
            ),
            do="For what is measured, see the dashboard Power.",
            queries=(Query(text=f"slmdeployment:power_watts_estimate:mean5m{{{ENGINES}}}", legend="estimate"),),
            unit="watt",
            least=0,
            lines={"estimate": Line.DASHED},
            width=8,
        ),
        Panel(
            kind=Kind.LINES,
            title="The hottest GPU against its ceiling",
            says=(
                "Measured watts of the hottest GPU that a replica is on, whoever else uses it; the prediction that"
                " decides; and spec.scaling.maxWattsPerGPU, where there is one."
            ),
            do=(
                "Above the ceiling: the ceiling bounds how many replicas are added; it does not slow what runs. Cap the"
                " GPU itself."
            ),
            queries=(
                Query(text=f"slmdeployment:hottest_gpu_watts:mean5m{{{ENGINES}}}", legend="measured"),
                Query(text=f"max(slmpack_predicted_power_watts{{{OPERATOR}}})", legend="predicted"),
                Query(text=f"max(slmpack_max_watts_per_gpu{{{OPERATOR}}})", legend="ceiling"),
            ),
            unit="watt",
            least=0,
            lines={"predicted": Line.DASHED, "ceiling": Line.LIMIT},
            width=8,
        ),
        Panel(
            kind=Kind.LINES,
            title="Joules per generated token (estimate)",
            says="The estimated watts over generated tokens. It rises where replicas idle.",
            do="Compare with the cluster's on the dashboard Power, which splits nothing.",
            queries=(Query(text=f"slmdeployment:joules_per_token_estimate:mean5m{{{ENGINES}}}", legend="estimate"),),
            unit="joule",
            least=0,
            lines={"estimate": Line.DASHED},
            width=8,
        ),
    ),
)
DEPLOYMENT = Board(
    uid="slmpack-deployment",
    title="slmpack / SLMDeployment",
    says=(
        "One SLMDeployment: its load and what carries it, what was decided and refused, latency, KV cache, watts and"
        " joules."
    ),
    variables=(
        Variable(
            name="namespace",
            label="Namespace",
            says="With an SLMDeployment in it.",
            series="slmpack_reason",
            of="namespace",
        ),
        Variable(
            name="name",
            label="SLMDeployment",
            says="By name.",
            series='slmpack_reason{namespace="$namespace"}',
            of="name",
        ),
    ),
    rows=(NOW, LOAD, DECISIONS, LATENCY, ENGINE, ENERGY),
    marks=(
        Mark(
            name="Scaling",
            text=f"changes(slmpack_desired_replicas{{{OPERATOR}}}[1m]) > 0",
            title="another number of replicas is wanted",
            colour="blue",
        ),
    ),
)
