"""The operator's page in a real browser, served as the operator serves it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from slmpack.adapters.clock import SystemClock
from slmpack.adapters.health import HealthServer
from slmpack.adapters.plan_page import PlanPage
from slmpack.domain.sharing import Mode
from tests.browser.sight import Sight
from tests.support.builders import POLICY, a_demand, a_deployment, a_snapshot, mps_node, plan

Look = Callable[..., Sight]
Answer = TypeVar("Answer")


class Patient:
    age_seconds = 1.0
    trouble = ""
    stands_by = False


class Served:
    """A server in a thread of its own."""

    def __init__(self) -> None:
        self.patient = Patient()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.page = self._do(self._make())
        self._server = HealthServer(self.patient, metrics=lambda: b"", page=self.page)
        self.url = self._do(self._server.start(host="127.0.0.1", port=0))

    async def _make(self) -> PlanPage:
        return PlanPage(
            POLICY,
            refresh_seconds=15,
            clock=SystemClock(),
            trouble=lambda: self.patient.trouble,
            stands_by=lambda: self.patient.stands_by,
        )

    def _do(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    def close(self) -> None:
        self._do(self._server.close())
        self._do(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served()
    snapshot = a_snapshot(
        deployments=(a_deployment("qwen", a_demand(replicas=3, mode=Mode.MPS)),), nodes=(mps_node("n"),)
    )
    server.page.see(plan(snapshot), snapshot)
    yield server
    server.close()


def test_it_is_shown_under_its_strict_policy(look: Look, served: Served) -> None:
    sight = look(served.url)
    assert sight.page.locator("ul.bar .block").count() == 2
    assert "planned" in sight.page.locator("header").first.inner_text()
    (bar,) = sight.boxes("ul.bar")
    assert bar["width"] > 300, "the stylesheet is allowed by its hash"


def test_refreshing_can_be_stopped_and_begun_anew(look: Look, served: Served) -> None:
    sight = look(served.url)
    assert sight.page.locator('meta[http-equiv="refresh"]').get_attribute("content") == "15"
    sight.page.get_by_role("link", name="stop refreshing").click()
    assert sight.page.url.endswith("?refresh=no")
    assert sight.page.locator('meta[http-equiv="refresh"]').count() == 0
    sight.page.get_by_role("link", name="refresh every 15 s").click()
    assert sight.page.locator('meta[http-equiv="refresh"]').count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken(look: Look, served: Served, scheme: str) -> None:
    served.patient.trouble, served.patient.stands_by = "standby: held by other-0", True
    sight = look(f"{served.url}/?refresh=no", scheme=scheme)
    assert "This operator stands by" in sight.page.get_by_role("status").inner_text()
    assert sight.violations() == []


def test_no_other_page_may_frame_it(look: Look, served: Served) -> None:
    sight = look(f"{served.url}/?refresh=no")
    answer = sight.page.request.get(f"{served.url}/")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
