"""The simulated cluster: replicas on GPUs, a Service for each tenant, requests of a trace; seconds since it began.

Routing is a Service's: each request picks one of the tenant's ready replicas at random and stays there. Without any it
waits at the gateway and goes to the first that is ready. What happens inside replicas is in `kernel`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import NDArray

from slmpack.simulate import kernel
from slmpack.simulate.costs import EngineSpec
from slmpack.simulate.power import Board
from slmpack.simulate.readings import Histograms, Outcome, Scrape
from slmpack.simulate.state import FINISHED, NEIGHBOURS, REJECTED, new_world, with_kind, with_room
from slmpack.simulate.trace import Trace

__all__ = ["Board", "Cluster", "EngineSpec", "Outcome", "Scrape"]


class Cluster:
    """A trace that plays on GPUs; the caller adds and removes replicas and lets time pass."""

    def __init__(self, trace: Trace, *, boards: Sequence[Board], longest: Sequence[int], seed: int) -> None:
        """At 0 s, without replicas.

        Args:
            trace: what arrives.
            boards: one for each GPU.
            longest: by tenant, max_model_len in tokens: longer prompts are rejected, outputs are cut there.
            seed: of the requests' choice among replicas; the nth request makes the same draw under every policy.
        """
        if len(longest) != len(trace.tenants):
            raise ValueError(f"longest has {len(longest)} numbers; the trace has {len(trace.tenants)} tenants")
        pick = Generator(PCG64([seed, 2])).random(len(trace))
        self.now = 0.0
        self._world = new_world(trace, boards, longest=longest, pick=pick)
        self._longest = tuple(longest)
        self._kinds: dict[EngineSpec, int] = {}
        self._starting: list[tuple[float, int]] = []
        self._replicas = 0
        self._cursor = 0

    def add(self, *, tenant: int, gpu: int, engine: EngineSpec, ready_at: float) -> int:
        """A replica that takes its place on the GPU now and is in the Service from `ready_at` on; its id, from 0 on."""
        if engine.kv_tokens // engine.block_tokens * engine.block_tokens < self._longest[tenant]:
            raise ValueError(
                f"kv_tokens {engine.kv_tokens}: the pool must hold one request of {self._longest[tenant]} tokens"
            )
        if min(engine.max_num_seqs, engine.max_num_batched_tokens) < 1:
            raise ValueError(
                f"max_num_seqs {engine.max_num_seqs}, max_num_batched_tokens {engine.max_num_batched_tokens}: "
                "an engine with less than 1 of either never does anything"
            )
        if self._world.boards["engines"][gpu] == NEIGHBOURS:
            raise ValueError(f"gpu {gpu}: it holds {NEIGHBOURS} replicas, and no more can be there")
        replica = self._replicas
        self._replicas += 1
        self._world = with_room(self._world, engines=self._replicas, places=engine.max_num_seqs)
        known = len(self._kinds)
        kind = self._kinds.setdefault(engine, known)
        if kind == known:
            self._world = with_kind(self._world, engine, place=kind)
        row = self._world.engines[replica]
        row["kind"], row["tenant"], row["gpu"], row["ready_at"] = kind, tenant, gpu, ready_at
        kernel.join(self._world, replica, self.now)
        self._starting.append((max(ready_at, self.now), replica))
        self._starting.sort()
        return replica

    def remove(self, replica: int) -> None:
        """Out of the Service at once; it ends when its requests are done, one without any now."""
        self._starting = [entry for entry in self._starting if entry[1] != replica]
        kernel.leave(self._world, replica, self.now)

    def advance(self, until: float) -> None:
        """Everything between now and `until`."""
        while self._starting and self._starting[0][0] <= until:
            ready_at, replica = self._starting.pop(0)
            self._pass(ready_at)
            kernel.serve(self._world, replica, ready_at)
        self._pass(until)

    def ended(self, replica: int) -> bool:
        """Whether a removed replica is done."""
        return bool(np.isfinite(self._world.engines["ended"][replica]))

    def scrape(self) -> Scrape:
        """What metrics say at `now`."""
        world = self._world
        live = np.flatnonzero(np.isinf(world.engines["ended"][: self._replicas]))
        engines = world.engines[live]
        ready, ending = engines["ready"] > 0, engines["ending"] > 0
        blocks = world.kinds["blocks"][engines["kind"]]
        return Scrape(
            at=self.now,
            replica=live,
            tenant=engines["tenant"],
            gpu=engines["gpu"],
            ready=ready,
            ending=ending,
            running=engines["running"],
            waiting=engines["waiting"],
            kv_usage=engines["blocks"] / blocks,
            completions=engines["completions"],
            preemptions=engines["preempted"],
            prompt_tokens=engines["prompt"],
            generation_tokens=engines["generation"],
            ttft=Histograms(counts=world.ttft[live], sums=engines["ttft"]),
            tpot=Histograms(counts=world.tpot[live], sums=engines["tpot"]),
            itl=Histograms(counts=world.itl[live], sums=engines["itl"]),
            queue=Histograms(counts=world.queue[live], sums=engines["queue"]),
            watts=world.boards["watts"].copy(),
            joules=world.boards["joules"].copy(),
            active=world.boards["worked"].copy(),
            gateway_waiting=world.gateway[:, 2].copy(),
        )

    def outcome(self) -> Outcome:
        """What became of every request, GPU and replica until `now`."""
        world, requests = self._world, self._world.requests
        engines = world.engines[: self._replicas]
        finished = requests["state"] == FINISHED
        return Outcome(
            at=self.now,
            ttft_s=self._ttft(),
            tpot_s=np.where(
                finished, (requests["last"] - requests["first"]) / np.maximum(1, requests["made"] - 1), np.nan
            ),
            output_tokens=requests["made"].copy(),
            finished=finished,
            rejected=requests["state"] == REJECTED,
            replica=requests["replica"].copy(),
            preemptions=requests["preempted"].copy(),
            itl_bounds=world.fine_bounds,
            itl_counts=world.fine.copy(),
            gpu_s=world.boards["used"].copy(),
            joules=world.boards["joules"].copy(),
            replica_s=np.minimum(engines["ended"], self.now) - engines["added"],
            replica_tenant=engines["tenant"].copy(),
            replica_gpu=engines["gpu"].copy(),
        )

    def _pass(self, until: float) -> None:
        """Time without a change of any Service."""
        self._cursor = kernel.route(self._world, self._cursor, until)
        kernel.advance(self._world, until, True)
        self.now = until

    def _ttft(self) -> NDArray[np.float64]:
        """From arrival to the first token, with what the API server adds."""
        requests = self._world.requests
        served = requests["replica"]
        if not self._replicas:
            return requests["first"].copy()
        kinds = self._world.engines["kind"][np.maximum(served, 0)]
        added = np.where(served >= 0, self._world.kinds["request_s"][kinds], 0.0)
        seconds: NDArray[np.float64] = requests["first"] - requests["arrival"] + added
        return seconds
