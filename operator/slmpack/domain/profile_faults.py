"""What spoils one point of a measured curve: found from what the client and the engine counted meanwhile.

A point is spoilt if something other than the engine at that batch bound it. All rules compare counters of the engine
(vLLM's /metrics) with what the client itself sent and received.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

__all__ = ["EngineSample", "Evidence", "Fault", "FaultPolicy", "PointFault", "Sighting", "find_faults"]


class Fault(Enum):
    """Why a point says little about the engine at that batch."""

    ERRORS = "Errors"
    """Requests failed."""
    CLIENT = "Client"
    """The client, or the network to it, was the limit."""
    UNSEEN = "Unseen"
    """The engine's metrics could not be read, so the other faults could not be looked for."""
    SWITCHED = "Switched"
    """The metrics came from more than one process: several replicas behind one address, or a restart."""
    CO_TENANT = "CoTenant"
    """The engine served requests that were not ours."""
    CACHE_HITS = "CacheHits"
    """Prompts were found in the prefix cache."""
    PREEMPTION = "Preemption"
    """Running requests were thrown out of the KV cache."""
    CAP = "Cap"
    """Fewer requests ran than were in flight: max-num-seqs, a full KV cache, or a limit on the way."""

    @property
    def transient(self) -> bool:
        """Whether measuring again, with the server as it is, can be rid of it."""
        return self not in {Fault.CAP, Fault.PREEMPTION}


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFault:
    """One thing that spoils a point."""

    fault: Fault
    message: str
    """What was seen, with its figures, and what would help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSample:
    """What an engine's metrics say at one moment. None: the engine does not say. Counters run from its start."""

    started_at: float | None = None
    """Start of the engine's process, seconds since the epoch."""
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    """Part of the KV cache in use, 0 to 1."""
    preemptions: float | None = None
    prefix_queries: float | None = None
    """Tokens looked up in the prefix cache."""
    prefix_hits: float | None = None
    """Tokens found in it."""
    generated_tokens: float | None = None
    itl_sum_s: float | None = None
    itl_count: float | None = None
    kv_cache_tokens: int | None = None
    """Size of the KV cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """The engine's metrics under load, and what the client had received at that moment."""

    engine: EngineSample
    received_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was counted while one point was measured."""

    concurrency: int
    max_num_seqs: int | None
    """The engine's limit, where the user says it: no endpoint of vLLM tells it."""
    before: EngineSample | None
    """The engine before the load of this point; None where the metrics cannot be read."""
    sightings: tuple[Sighting, ...]
    """Under full load, from the end of the warm-up to the end of the last repeat."""
    missed: int = 0
    """Further looks at the metrics that the server did not answer."""
    itl_s: float
    """Mean inter-token latency that the client saw, seconds."""
    client_busy: float
    """CPU seconds a second of the client's one thread."""
    client_lag_s: float
    """How late the client's event loop wakes up, mean seconds."""
    errors: int
    last_error: str = ""

    @property
    def steady(self) -> tuple[EngineSample, ...]:
        """The engine under load but for the first and the last look, which come just when a request has ended."""
        inner = self.sightings[1:-1] or self.sightings
        return tuple(sighting.engine for sighting in inner)

    @property
    def preemptions(self) -> float | None:
        """Requests that were preempted since before the warm-up; None where the engine does not say."""
        return _grown(self, "preemptions")

    @property
    def running(self) -> float | None:
        """Requests that ran at a time, mean; None where the engine does not say."""
        seen = [sample.running for sample in self.steady if sample.running is not None]
        return sum(seen) / len(seen) if seen else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPolicy:
    """How much is too much."""

    client_busy: float = 0.8
    """A single thread that is busier than this queues what arrives."""
    client_lag: float = 0.5
    """Lag of the event loop, as a part of the inter-token latency."""
    least_lag_s: float = 0.005
    """A lag below this is the resolution of timers, not a busy client."""
    itl_excess: float = 0.15
    """By how much the client's mean inter-token latency may exceed the engine's own."""
    least_itl_excess_s: float = 0.001
    missed: float = 0.2
    """Part of the looks at the engine that may fail."""
    prefix_hits: float = 0.01
    """Part of the prompt tokens found in the prefix cache."""
    tokens_excess: float = 0.05
    """By how much the engine's tokens may exceed those received."""
    tokens_in_flight: int = 4
    """Tokens for each request that may be under way between engine and client."""
    plateau: float = 0.7
    """Part of the looks at the engine that find as many running as ever and others waiting: a cap. Without a cap
    requests wait as well, for their prefill, but not all the time."""
    kv_full: float = 0.95
    """Part of the KV cache in use that counts as full."""
    arrived: float = 0.9
    """Part of the requests in flight that must be in the engine on average, but for one."""


def find_faults(evidence: Evidence, *, policy: FaultPolicy | None = None) -> tuple[PointFault, ...]:
    """All that spoils the point, the gravest first; empty where nothing does."""
    limits = policy or FaultPolicy()
    finders: tuple[tuple[Fault, Callable[[Evidence, FaultPolicy], str | None]], ...] = (
        (Fault.ERRORS, _errors),
        (Fault.CLIENT, _client),
        (Fault.UNSEEN, _unseen),
        (Fault.SWITCHED, _switched),
        (Fault.CO_TENANT, _co_tenant),
        (Fault.CACHE_HITS, _cache_hits),
        (Fault.PREEMPTION, _preemption),
        (Fault.CAP, _cap),
    )
    found = ((fault, finder(evidence, limits)) for fault, finder in finders)
    return tuple(PointFault(fault=fault, message=message) for fault, message in found if message is not None)


def _errors(evidence: Evidence, _: FaultPolicy) -> str | None:
    if not evidence.errors:
        return None
    requests = "request" if evidence.errors == 1 else "requests"
    return f"{evidence.errors} {requests} failed, the last with: {evidence.last_error}; mend that and measure again"


def _client(evidence: Evidence, limits: FaultPolicy) -> str | None:
    mend = "measure from a machine with a faster or idler core, close to the server"
    if evidence.client_busy > limits.client_busy:
        return (
            f"this client's own thread was busy {evidence.client_busy:.0%} of the time (more than "
            f"{limits.client_busy:.0%}), so it may be the limit instead of the engine; {mend}"
        )
    if evidence.client_lag_s > max(limits.client_lag * evidence.itl_s, limits.least_lag_s):
        return (
            f"this client's event loop woke up {_ms(evidence.client_lag_s)} late on average, against an inter-token "
            f"latency of {_ms(evidence.itl_s)}; {mend}"
        )
    theirs = _engine_itl_s(evidence)
    if theirs is None or evidence.itl_s <= theirs * (1 + limits.itl_excess) + limits.least_itl_excess_s:
        return None
    return (
        f"the inter-token latency is {_ms(evidence.itl_s)} here and {_ms(theirs)} in the engine: this client or the "
        f"network (a port-forward, a gateway) is the limit; {mend}"
    )


def _unseen(evidence: Evidence, limits: FaultPolicy) -> str | None:
    looks = len(evidence.sightings) + evidence.missed
    if evidence.before is not None and any(seen.engine.running is not None for seen in evidence.sightings):
        if evidence.missed <= limits.missed * looks:
            return None
        return (
            f"the server did not answer {evidence.missed} of {looks} looks at its /metrics, so a cap, cache hits, "
            "preemptions and others' requests cannot be told; read the server's log and measure again"
        )
    return (
        "the server's /metrics do not say vllm:num_requests_running, so a cap, cache hits, preemptions and others' "
        "requests cannot be told; give the address of the engine itself, not of a gateway"
    )


def _switched(evidence: Evidence, _: FaultPolicy) -> str | None:
    samples = [sighting.engine for sighting in evidence.sightings]
    if evidence.before is not None:
        samples.append(evidence.before)
    starts = {sample.started_at for sample in samples if sample.started_at is not None}
    if len(starts) < 2:
        return None
    return (
        f"/metrics came from {len(starts)} processes: the address leads to several replicas, or the engine restarted; "
        "profile one pod (kubectl port-forward pod/NAME)"
    )


def _co_tenant(evidence: Evidence, limits: FaultPolicy) -> str | None:
    mend = "keep other clients away from this replica while it is measured"
    ours = evidence.concurrency
    others = [(seen.engine.running or 0) + (seen.engine.waiting or 0) - ours for seen in evidence.sightings]
    if sum(excess > 0 for excess in others) >= 2:  # once may be a request that ended between two gauges
        return f"up to {max(others):.0f} requests of other clients were in flight beside our {ours}; {mend}"
    made, received = _grown_under_load(evidence, "generated_tokens"), _received(evidence)
    allowed = received * (1 + limits.tokens_excess) + limits.tokens_in_flight * ours
    if made is None or made <= allowed or _client(evidence, limits) is not None:
        return None  # what a slow client has not read yet is ours, too
    return f"the engine made {made:.0f} tokens while we received {received}: other clients are served; {mend}"


def _cache_hits(evidence: Evidence, limits: FaultPolicy) -> str | None:
    queries, hits = _grown(evidence, "prefix_queries"), _grown(evidence, "prefix_hits")
    if not queries or hits is None or hits <= limits.prefix_hits * queries:
        return None
    return (
        f"{hits / queries:.1%} of the prompt tokens were found in the prefix cache (over {limits.prefix_hits:.0%}): "
        "prefill cost less than it should; use longer prompts (--input-len), or start the engine with "
        "--no-enable-prefix-caching"
    )


def _preemption(evidence: Evidence, _: FaultPolicy) -> str | None:
    count = evidence.preemptions
    if not count:
        return None
    return (
        f"{count:.0f} requests were preempted: the KV cache is too small for {evidence.concurrency} requests of this "
        "length; give the engine more KV cache or measure shorter requests"
    )


def _cap(evidence: Evidence, limits: FaultPolicy) -> str | None:
    wanted, limit = evidence.concurrency, evidence.max_num_seqs
    if limit is not None and wanted > limit:
        return f"{wanted} in flight are more than the engine's max-num-seqs of {limit}; start it with {wanted} or more"
    seen = [sample for sample in evidence.steady if sample.running is not None]
    if not seen:
        return None
    running = [sample.running or 0.0 for sample in seen]
    waiting = [sample.waiting or 0.0 for sample in seen]
    most = max(running)
    queued = sum(waits >= 1 for waits in waiting) / len(seen)
    full = sum(runs == most and waits >= 1 for runs, waits in zip(running, waiting, strict=True)) / len(seen)
    if queued >= limits.plateau and max(sample.kv_usage or 0.0 for sample in seen) >= limits.kv_full:
        why = "the KV cache is full: give the engine more, or measure shorter requests"
    elif full >= limits.plateau:
        why = f"the others wait: start the engine with --max-num-seqs {wanted} or more"
    elif sum(running) + sum(waiting) < (limits.arrived * wanted - 1) * len(seen):
        mean = sum(running) / len(running)
        return (
            f"{mean:.1f} of {wanted} requests ran at a time on average; the others are not in the engine: look for a "
            "limit of connections or a slow link on the way"
        )
    else:
        return None
    return f"at most {most:.0f} of {wanted} requests ran at once; {why}"


def _engine_itl_s(evidence: Evidence) -> float | None:
    """Mean inter-token latency by the engine's own histogram, seconds."""
    seconds, count = _grown_under_load(evidence, "itl_sum_s"), _grown_under_load(evidence, "itl_count")
    return seconds / count if seconds is not None and count else None


def _received(evidence: Evidence) -> int:
    """Tokens that the client received from the first to the last sighting."""
    return evidence.sightings[-1].received_tokens - evidence.sightings[0].received_tokens if evidence.sightings else 0


def _grown_under_load(evidence: Evidence, counter: str) -> float | None:
    """By how much a counter grew while the client counted, too."""
    return _growth(evidence.sightings[0].engine, evidence.sightings[-1].engine, counter) if evidence.sightings else None


def _grown(evidence: Evidence, counter: str) -> float | None:
    """By how much a counter grew since before the warm-up."""
    if evidence.before is None or not evidence.sightings:
        return None
    return _growth(evidence.before, evidence.sightings[-1].engine, counter)


def _growth(first: EngineSample, last: EngineSample, counter: str) -> float | None:
    start: float | None = getattr(first, counter)
    end: float | None = getattr(last, counter)
    return None if start is None or end is None or end < start else end - start  # a restart begins at 0


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
