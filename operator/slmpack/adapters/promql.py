"""Every PromQL query that slmpack asks: pure functions of names, one text each.

All replicas are asked about at once. An *engine* is told from others by namespace, pod, instance and engine: `max by`
these first, so that two jobs (or two Prometheus servers behind one view) that scrape the same engine count once.

What a window says is summed over the engines that were there *during* the window, also those that have gone since: so
series are grouped by SLMDeployment in PromQL, not by the pods that exist now. A pod's name is its SLMDeployment's and a
number, which is unambiguous; where Prometheus copies the pod label slmpack.dev/name (`labels.deployment`), that is
used. rate() corrects restarts of an engine, series by series, before anything is summed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from slmpack.adapters.metric_names import MetricNames
from slmpack.domain.load import LATE, LONG, PEAK, RECENT, SHORT
from slmpack.domain.snapshot import Key

__all__ = [
    "DEPLOYMENT",
    "GATEWAY_QUEUE",
    "NOW",
    "POWER_WINDOW",
    "EngineQueries",
    "gateway_query",
    "gpu_queries",
]

DEPLOYMENT = "slmdeployment"
"""The label that answers carry the SLMDeployment's name in, beside `namespace`."""
NAMESPACE = "namespace"
NOW = "vector(time())"
"""Prometheus' own clock."""
PEAK_STEP = timedelta(seconds=15)
LONG_STEP = timedelta(seconds=30)
POWER_WINDOW = timedelta(minutes=2)
"""Of the energy counter: dcgm-exporter reads it every 30 s; a step more or less must not weigh much."""
QUANTILE = 0.95
HIGH_QUANTILE = 0.99
MIB = 2**20

GATEWAY_QUEUE = (
    'sum(llm_d_epp_flow_control_queue_size{namespace="$namespace",inference_pool="$name"}'
    ' or inference_extension_flow_control_queue_size{namespace="$namespace",inference_pool="$name"})'
)
"""Requests in the flow control queue of the Gateway API inference extension's endpoint picker (the flowControl feature
gate), under its newer and its older name, for an InferencePool that is called like the SLMDeployment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineQueries:
    """What is asked of engines. `deployments` bounds which series Prometheus has to read."""

    names: MetricNames
    deployments: tuple[Key, ...]

    def fresh(self) -> str:
        """By engine: when it was last scraped, in seconds since the epoch."""
        return self._by_engine(f"timestamp({name}{self._chosen})" for name in self.names.engine.running)

    def running(self) -> str:
        """By engine: requests in its batch."""
        return self._now(self.names.engine.running)

    def waiting(self) -> str:
        """By engine: requests in its queue."""
        return self._now(self.names.engine.waiting)

    def kv_usage(self) -> str:
        """By engine: the part of its KV cache in use."""
        return self._now(self.names.engine.kv_usage)

    def arrivals(self, window: timedelta = SHORT) -> str:
        """Requests a second: what finished, and the change of running and waiting (D8a). Never below 0.

        Of an engine without a sample before its first requests those are in neither; of one that crashes, its requests
        in flight count as a change: both make the sum too low for one window.
        """
        in_flight = " + ".join(
            f"({self._by_engine(f'delta({name}{self._over(window)})' for name in names)}) / {_seconds(window)}"
            for names in (self.names.engine.running, self.names.engine.waiting)
        )
        return f"clamp_min({self._by_deployment(f'{self._finished(window)} + {in_flight}')}, 0)"

    def arrivals_now(self) -> str:
        """The same over RECENT; no series where scrapes are further apart than half of it."""
        return self.arrivals(RECENT)

    def arrivals_peak(self) -> str:
        """The highest of them within PEAK."""
        return f"max_over_time(({self.arrivals()})[{_span(PEAK)}:{_span(PEAK_STEP)}])"

    def arrivals_high(self) -> str:
        """Their 99th percentile within LONG."""
        return f"quantile_over_time({HIGH_QUANTILE}, ({self.arrivals()})[{_span(LONG)}:{_span(LONG_STEP)}])"

    def arrivals_mean(self) -> str:
        """Their mean within LONG."""
        return f"avg_over_time(({self.arrivals()})[{_span(LONG)}:{_span(LONG_STEP)}])"

    def completions(self) -> str:
        """Requests finished a second over SHORT, however they ended."""
        return self._by_deployment(self._finished(SHORT))

    def input_tokens(self) -> str:
        """Mean tokens of a prompt over PEAK; NaN without a request."""
        return self._mean(self.names.engine.request_prompt_tokens, PEAK)

    def output_tokens(self) -> str:
        """Mean tokens of an answer over PEAK; NaN without a request."""
        return self._mean(self.names.engine.request_generation_tokens, PEAK)

    def prompt_rate(self) -> str:
        """Prompt tokens a second over SHORT."""
        return self._by_deployment(self._rate(self.names.engine.prompt_tokens, SHORT))

    def generation_rate(self) -> str:
        """Generated tokens a second over SHORT."""
        return self._by_deployment(self._rate(self.names.engine.generation_tokens, SHORT))

    def ttft(self) -> str:
        """95th percentile of the time to first token over SHORT, seconds; NaN without a request."""
        return self._quantile(self.names.engine.ttft)

    def itl(self) -> str:
        """Mean inter-token latency over SHORT, seconds; NaN without a token."""
        return self._mean(self.names.engine.itl, SHORT)

    def itl_p95(self) -> str:
        """Its 95th percentile."""
        return self._quantile(self.names.engine.itl)

    def queue(self) -> str:
        """Mean time in the queue over SHORT, seconds; NaN without a request."""
        return self._mean(self.names.engine.queue_time, SHORT)

    def ttft_buckets(self) -> str:
        """By `le`: requests that had their first token within LATE, that late or sooner."""
        return self._buckets(self.names.engine.ttft)

    def tpot_buckets(self) -> str:
        """By `le`: requests that ended within LATE, whose further tokens took that long each or less in the mean."""
        return self._buckets(self.names.engine.tpot)

    @property
    def _chosen(self) -> str:
        labels = self.names.labels
        names = "|".join(_escaped(it) for it in sorted({key.name for key in self.deployments}))
        whose = f'{labels.deployment}=~"{names}"' if labels.deployment else f'{labels.pod}=~"(?:{names})-[0-9]+"'
        namespaces = "|".join(_escaped(it) for it in sorted({key.namespace for key in self.deployments}))
        return f'{{{labels.namespace}=~"{namespaces}",{whose}}}'

    def _over(self, window: timedelta) -> str:
        return f"{self._chosen}[{_span(window)}]"

    @property
    def _engine(self) -> tuple[str, ...]:
        labels = self.names.labels
        own = () if labels.deployment is None else (labels.deployment,)
        return (labels.namespace, labels.pod, labels.instance, labels.engine, *own)

    def _by_engine(self, vectors: Iterable[str], *more: str) -> str:
        """One series an engine; of several names the first that it has."""
        by = ", ".join((*self._engine, *more))
        return " or ".join(f"max by ({by}) ({vector})" for vector in vectors)

    def _by_deployment(self, vector: str, *more: str) -> str:
        """Sums. `vector` carries the labels of an engine."""
        labels = self.names.labels
        source = (labels.deployment, "(.+)") if labels.deployment else (labels.pod, "(.+)-[0-9]+")
        named = f'label_replace({vector}, "{DEPLOYMENT}", "$1", "{source[0]}", "{source[1]}")'
        if labels.namespace != NAMESPACE:
            named = f'label_replace({named}, "{NAMESPACE}", "$1", "{labels.namespace}", "(.+)")'
        return f"sum by ({', '.join((NAMESPACE, DEPLOYMENT, *more))}) ({named})"

    def _now(self, names: tuple[str, ...]) -> str:
        return self._by_engine(f"{name}{self._chosen}" for name in names)

    def _rate(self, names: Iterable[str], window: timedelta, *more: str) -> str:
        return self._by_engine((f"rate({name}{self._over(window)})" for name in names), *more)

    def _finished(self, window: timedelta) -> str:
        reason = self.names.labels.finished_reason
        rates = self._rate(self.names.engine.finished, window, reason)
        return f"sum by ({', '.join(self._engine)}) ({rates})"

    def _mean(self, names: tuple[str, ...], window: timedelta) -> str:
        total, count = (
            self._by_deployment(self._rate((f"{name}_{part}" for name in names), window)) for part in ("sum", "count")
        )
        return f"{total} / {count}"

    def _quantile(self, names: tuple[str, ...]) -> str:
        return f"histogram_quantile({QUANTILE}, {self._bucket_rates(names, SHORT)})"

    def _buckets(self, names: tuple[str, ...]) -> str:
        return f"{self._bucket_rates(names, LATE)} * {_seconds(LATE)}"

    def _bucket_rates(self, names: tuple[str, ...], window: timedelta) -> str:
        return self._by_deployment(self._rate((f"{name}_bucket" for name in names), window, "le"), "le")


def gpu_queries(names: MetricNames) -> dict[str, str]:
    """By figure: one series a GPU (with the labels of its UUID and its node), but for `pods` and `fb_used`.

    `energy_w` and `power_w` are watts, `seen` is when it was last scraped, `pods` has one series for each pod that the
    exporter named over SHORT, `fb_used` (bytes) one for each pod and MIG instance.
    """
    gpu, labels = names.gpu, names.labels
    by = (labels.gpu_uuid, *labels.gpu_node)
    users = (*labels.gpu_pod, *labels.gpu_namespace)
    whole = f'{{{labels.gpu_instance}=""}}'
    short, longer = _span(SHORT), _span(POWER_WINDOW)
    changed = _any(gpu.xid, by, f"changes({{name}}[{short}])")
    return {
        "seen": _any((*gpu.power, *gpu.energy, *gpu.fb_used), by, "timestamp({name})"),
        # The counter's labels change with the pods on the GPU, and rate() takes what lies before a series for nothing.
        "energy_w": _any(
            gpu.energy, by, f"(rate({{name}}[{longer}]) and {{name}} and {{name}} offset {longer}) / 1000"
        ),
        "power_w": _any(gpu.power, by, f"avg_over_time({{name}}[{short}])"),
        "gr_engine_active": _any(gpu.gr_engine_active, by, f"avg_over_time({{name}}{whole}[{short}])"),
        "dram_active": _any(gpu.dram_active, by, f"avg_over_time({{name}}{whole}[{short}])"),
        "fb_used": _any(gpu.fb_used, (*by, labels.gpu_instance, *users), f"{{name}} * {MIB}"),
        "xid": f"({_any(gpu.xid, by, '{name}')}) > 0 and ({changed}) > 0",
        "pods": _any((*gpu.power, *gpu.energy), (*by, *users), f"present_over_time({{name}}[{short}])"),
    }


def gateway_query(template: str, deployments: Iterable[Key]) -> str:
    """The user's query for each of them, as one: $namespace and $name are replaced, and its series are summed."""
    return " or ".join(_labelled(_filled(template, key), key) for key in deployments)


def _filled(template: str, key: Key) -> str:
    return template.replace("$namespace", key.namespace).replace("$name", key.name)


def _labelled(query: str, key: Key) -> str:
    named = f'label_replace(sum({query}), "{NAMESPACE}", "{key.namespace}", "", "")'
    return f'label_replace({named}, "{DEPLOYMENT}", "{key.name}", "", "")'


def _any(names: Iterable[str], by: tuple[str, ...], vector: str) -> str:
    grouped = ", ".join(by)
    return " or ".join(f"max by ({grouped}) ({vector.replace('{name}', name)})" for name in names)


def _span(window: timedelta) -> str:
    return f"{_seconds(window)}s"


def _seconds(window: timedelta) -> int:
    return int(window.total_seconds())


def _escaped(name: str) -> str:
    """As part of a regular expression within a PromQL string; names of Kubernetes have no other special character."""
    return name.replace(".", "\\\\.")
