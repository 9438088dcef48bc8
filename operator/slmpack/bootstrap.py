"""The composition root: what is made of what, in which order it starts, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import kopf

from slmpack.adapters.clock import SystemClock
from slmpack.adapters.cluster import KubeCluster
from slmpack.adapters.connection import load_connection
from slmpack.adapters.health import HealthServer
from slmpack.adapters.hub import BundledFirst, HubModels
from slmpack.adapters.kube import KubeClient
from slmpack.adapters.lease import LeaseLock
from slmpack.adapters.measuring import make_loads
from slmpack.adapters.observe import Observer, Scope
from slmpack.adapters.pack_key import PackKey
from slmpack.adapters.packs import PackClient
from slmpack.adapters.plan_page import PlanPage
from slmpack.adapters.policy import load_policy
from slmpack.adapters.preflight import check_access, serves_claims
from slmpack.adapters.resources import (
    CONFIG_MAPS,
    DEVICE_CLASSES,
    ENDPOINT_SLICES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    SERVICES,
    SLM_DEPLOYMENTS,
    Resource,
)
from slmpack.adapters.telemetry import PrometheusTelemetry
from slmpack.config import OperatorConfig
from slmpack.controller.execute import Executor
from slmpack.controller.handlers import Kind, Watches
from slmpack.controller.loop import Pace, Parts, PlannerLoop, Wake
from slmpack.controller.report import Reporter
from slmpack.domain.snapshot import Policy
from slmpack.ports import PortError, Unavailable
from slmpack.render.names import NAME_LABEL, PROFILE_LABEL

__all__ = ["run", "serve"]

logger = logging.getLogger(__name__)

LAST_WRITE_SECONDS = 2.0
RELEASE_SECONDS = 1.0
WATCHES_SECONDS = 1.5
"""Together they stay under the five seconds in which SIGTERM must end the process."""
ASK_AGAIN_SECONDS = 5.0


def run(config: OperatorConfig, *, policy: Policy | None = None) -> int:
    """Run the operator until SIGTERM or SIGINT: 0 after a clean stop, 1 with the reason in the log otherwise."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("kopf", "aiohttp", "kubernetes"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It warns that signals are ignored in its thread, which is what we want.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    try:
        return asyncio.run(_until_signalled(config, policy or load_policy()))
    except (PortError, OSError, ValueError) as error:
        logger.error("cannot start: %s", error)  # noqa: TRY400 - the message is for the user, the trace is not
        return 1


async def _until_signalled(config: OperatorConfig, policy: Policy) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return await serve(config, policy, stop=stop)


async def serve(config: OperatorConfig, policy: Policy, *, stop: asyncio.Event) -> int:
    """Run until `stop` is set or a part ends by itself. Raises PortError or OSError where it cannot start."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(await KubeClient.connect(config.kubeconfig, context=config.context))
        told = replace(policy, supervisor_image=config.supervisor_image, node_terms=config.nodes.node_terms)
        operator = _Operator(client, config, told)
        await stack.enter_async_context(operator.hub)
        await stack.enter_async_context(operator.packs)
        await stack.enter_async_context(operator.loads)
        await operator.health.start(host=config.host, port=config.port)
        stack.push_async_callback(operator.health.close)
        logger.info("working on %s", client.connection.server)
        if missing := await _preflight(operator.ask, stop=stop, put_off=operator.put_off):
            logger.error(
                "the cluster is not ready for this operator:\n%s", "\n".join(f"  - {line}" for line in missing)
            )
            return 1
        return 0 if stop.is_set() else await operator.work(stop)


async def _preflight(
    ask: Callable[[], Coroutine[Any, Any, tuple[str, ...]]], *, stop: asyncio.Event, put_off: Callable[[str], None]
) -> tuple[str, ...]:
    """What is missing, as soon as the API server says: one that is down must not end the operator.

    Empty, too, once `stop` is set. Raises PortError for an answer that asking again would not change, such as a 401.
    """
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        while not stop.is_set():
            asked = asyncio.create_task(ask())
            try:
                await asyncio.wait({asked, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if asked.done():
                    return asked.result()
            except Unavailable as error:
                logger.warning("the API server does not answer yet: %s", error)
                put_off(f"the API server does not answer: {error}")
            finally:
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)
            await asyncio.wait({stopped}, timeout=ASK_AGAIN_SECONDS)
        return ()
    finally:
        stopped.cancel()


class _Operator:
    """All parts, put together."""

    def __init__(self, client: KubeClient, config: OperatorConfig, policy: Policy) -> None:
        self._client = client
        self._config = config
        self._claims = False
        """Whether ResourceClaims and what they claim are watched: Kopf must not watch what is not served."""
        clock, pace, telemetry = SystemClock(), Pace(), PrometheusTelemetry()
        client.on_date = clock.agree_with
        self._wake = Wake(pace)
        self.hub = HubModels(config.hub, wake=self._wake.set, clock=clock)
        self.packs = PackClient(
            PackKey(client, namespace=config.where_the_lease_is),
            wake=self._wake.set,
            clock=clock,
            proxy=config.pod_proxy,
        )
        self.loads = make_loads(config.metrics, wake=self._wake.set, clock=clock, proxy=config.pod_proxy)
        self._observer = Observer(
            client,
            scope=Scope(namespace=config.namespace, nodes=config.nodes, packs=config.makes_packs),
            models=BundledFirst(self.hub) if config.bundled_models else self.hub,
            engines=policy.engines,
            clock=clock,
            packs=self.packs,
            loads=self.loads,
        )
        self._lease = _lease(client, config, clock)
        page = None
        if config.page:
            page = PlanPage(
                policy,
                refresh_seconds=round(pace.tick),
                clock=clock,
                trouble=lambda: self._loop.trouble,
                stands_by=lambda: self._loop.stands_by,
            )
        parts = replace(self._parts(policy, clock, telemetry), see=page.see if page is not None else None)
        self._loop = PlannerLoop(parts, wake=self._wake, pace=pace)
        self.health = HealthServer(self._loop, metrics=telemetry.text, page=page)

    def _parts(self, policy: Policy, clock: SystemClock, telemetry: PrometheusTelemetry) -> Parts:
        cluster = KubeCluster(self._client, self._observer)
        return Parts(
            world=self._observer,
            executor=Executor(
                cluster,
                packs=self.packs,
                leadership=self._lease,
                engines=policy.engines,
                supervisor_image=policy.supervisor_image,
                clock=clock,
                telemetry=telemetry,
            ),
            reporter=Reporter(cluster, leadership=self._lease, clock=clock, telemetry=telemetry),
            leadership=self._lease,
            policy=policy,
            clock=clock,
            telemetry=telemetry,
            jitter=random.random,
        )

    async def ask(self) -> tuple[str, ...]:
        """What the operator needs and the cluster lacks or forbids. Raises PortError where there is no answer."""
        self._claims = await serves_claims(self._client)
        return await check_access(
            self._client,
            namespace=self._config.namespace,
            lease_namespace=self._config.where_the_lease_is,
            packs=self._config.makes_packs,
            claims=self._claims,
        )

    @property
    def put_off(self) -> Callable[[str], None]:
        """To say why the loop has not begun."""
        return self._loop.put_off

    async def work(self, stop: asyncio.Event) -> int:
        """Watch, hold the Lease and plan until told to stop; 1 if a part ended by itself."""
        obituaries: asyncio.Queue[str] = asyncio.Queue()
        watches = self._watches(obituaries)
        lease = asyncio.create_task(self._lease.run(self._wake.set), name="lease")
        planner = asyncio.create_task(self._loop.run(), name="planner")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        died = asyncio.create_task(obituaries.get(), name="obituary")
        for watch in watches:
            watch.start()
        try:
            await asyncio.wait({lease, planner, stopped, died}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._end(planner, (lease, stopped, died), watches)
        if stop.is_set():
            logger.info("stopped")
            return 0
        logger.error(
            "%s", died.result() if died.done() else f"{'lease' if lease.done() else 'planner'} ended by itself"
        )
        return 1

    async def _end(
        self, planner: asyncio.Task[None], others: tuple[asyncio.Task[Any], ...], watches: tuple[Watches, ...]
    ) -> None:
        """The write in flight first, then the Lease, then the watches."""
        self._loop.stop()
        await asyncio.wait({planner}, timeout=LAST_WRITE_SECONDS)
        for task in (planner, *others):
            task.cancel()
        ends = await asyncio.gather(planner, *others, return_exceptions=True)
        for error in ends:
            if isinstance(error, Exception):
                logger.error("ended with %s", error, exc_info=error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._lease.release(), RELEASE_SECONDS)
        ended = await asyncio.gather(*(asyncio.to_thread(w.stop, seconds=WATCHES_SECONDS) for w in watches))
        if not all(ended):
            logger.warning("the watches did not end within %s s; they end with the process", WATCHES_SECONDS)

    def _watches(self, obituaries: asyncio.Queue[str]) -> tuple[Watches, ...]:
        """Nodes and pods are watched in the whole cluster; with --namespace, what we own only there."""
        loop = asyncio.get_running_loop()

        def ended(why: str) -> None:
            _call_soon(loop, lambda: obituaries.put_nowait(why))

        dra = (RESOURCE_SLICES, DEVICE_CLASSES, RESOURCE_CLAIMS) if self._claims else ()
        everywhere = tuple(self._kind(loop, kind) for kind in (NODES, PODS, PRIORITY_CLASSES, *dra))
        ours = (
            self._kind(loop, SLM_DEPLOYMENTS),
            self._kind(loop, SERVICES, label=NAME_LABEL),
            self._kind(loop, CONFIG_MAPS, label=PROFILE_LABEL),
            *self._kinds_of_packs(loop),
        )
        if self._config.namespace is None:
            return (Watches((*everywhere, *ours), namespace=None, login=self._login, ended=ended),)
        return (
            Watches(everywhere, namespace=None, login=self._login, ended=ended),
            Watches(ours, namespace=self._config.namespace, login=self._login, ended=ended),
        )

    def _kinds_of_packs(self, loop: asyncio.AbstractEventLoop) -> tuple[Kind, ...]:
        return (self._kind(loop, ENDPOINT_SLICES, label=NAME_LABEL),) if self._config.makes_packs else ()

    def _kind(self, loop: asyncio.AbstractEventLoop, resource: Resource, *, label: str | None = None) -> Kind:
        def handle(event: str | None, raw: Mapping[str, Any]) -> None:
            _call_soon(loop, lambda: self._see(resource, event, raw))

        return Kind(group=resource.group, version=resource.version, plural=resource.plural, handle=handle, label=label)

    def _see(self, resource: Resource, event: str | None, raw: Mapping[str, Any]) -> None:
        if self._observer.handle(resource, event, raw):
            self._wake.set()

    async def _login(self) -> kopf.ConnectionInfo:
        """Kopf's way in: the same configuration, loaded anew in Kopf's thread."""
        connection = await load_connection(kubeconfig=self._config.kubeconfig, context=self._config.context)
        scheme, token = await connection.authorization()
        found = connection.configuration
        return kopf.ConnectionInfo(
            server=connection.server,
            ca_path=found.ssl_ca_cert,
            insecure=not found.verify_ssl,
            scheme=scheme,
            token=token,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
            proxy_url=found.proxy,
        )


def _call_soon(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the planner's loop has closed already
        loop.call_soon_threadsafe(work)


def _lease(client: KubeClient, config: OperatorConfig, clock: SystemClock) -> LeaseLock:
    where = config.where_the_lease_is
    return LeaseLock(client, namespace=where, name=_lease_name(config), identity=_identity(config), clock=clock)


def _lease_name(config: OperatorConfig) -> str:
    """Operators of different nodes do not exclude one another."""
    if not config.node_selector:
        return "slmpack"
    return f"slmpack-{hashlib.sha256(config.node_selector.encode()).hexdigest()[:8]}"


def _identity(config: OperatorConfig) -> str:
    return config.identity or f"{socket.gethostname()}_{os.getpid()}_{random.randbytes(4).hex()}"  # noqa: S311 - a name, no secret
