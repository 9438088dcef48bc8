"""The operator's page: what it says of the last plan, what it costs, and how it is served."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import aiohttp
import pytest

from slmpack.adapters import plan_page
from slmpack.adapters.health import HealthServer
from slmpack.adapters.plan_page import LEAST_SECONDS, PlanPage
from slmpack.domain.plan import ClusterPlan
from slmpack.domain.snapshot import Snapshot
from slmpack.page.document import Body, Document, Frame, render_document
from slmpack.page.gather import gather_sheet
from tests.support.builders import POLICY, a_demand, a_deployment, a_snapshot, mps_node, plan
from tests.support.fake_clock import FakeClock


class Patient:
    """An operator whose trouble a test sets."""

    age_seconds = 1.0
    trouble = ""
    stands_by = False


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def patient() -> Patient:
    return Patient()


@pytest.fixture
def page(clock: FakeClock, patient: Patient) -> PlanPage:
    return PlanPage(
        POLICY, refresh_seconds=7, clock=clock, trouble=lambda: patient.trouble, stands_by=lambda: patient.stands_by
    )


@pytest.fixture
async def url(page: PlanPage, patient: Patient) -> AsyncIterator[str]:
    server = HealthServer(patient, metrics=lambda: b"", page=page)
    yield await server.start(host="127.0.0.1", port=0)
    await server.close()


def _world(name: str = "qwen") -> tuple[ClusterPlan, Snapshot]:
    snapshot = a_snapshot(deployments=(a_deployment(name, a_demand()),), nodes=(mps_node("n"),))
    return plan(snapshot), snapshot


async def _html(page: PlanPage, *, refreshes: bool = True) -> str:
    return (await page.page(refreshes=refreshes)).body.decode()


async def test_before_the_first_plan(page: PlanPage) -> None:
    html = await _html(page)
    assert "Nothing has been planned yet." in html
    assert "no plan yet" in html


async def test_it_shows_the_last_plan_and_how_old_it_is(page: PlanPage, clock: FakeClock) -> None:
    page.see(*_world())
    clock.advance(12)
    html = await _html(page)
    assert "planned 12 s ago, at 2026-01-01 00:16:40 UTC" in html
    assert "qwen-0" in html
    assert "without authentication: whoever reaches this port sees these names" in html


async def test_it_refreshes_unless_told_not_to(page: PlanPage) -> None:
    assert '<meta http-equiv="refresh" content="7">' in await _html(page)
    still = await _html(page, refreshes=False)
    assert 'http-equiv="refresh"' not in still
    assert '<a href="?">refresh every 7 s</a>' in still


async def test_a_standby_says_so(page: PlanPage, patient: Patient) -> None:
    patient.trouble, patient.stands_by = "standby: held by other-0", True
    html = await _html(page)
    assert "This operator stands by and plans nothing; another one does. standby: held by other-0." in html
    assert "Below is the last plan" not in html
    page.see(*_world())
    assert "Below is the last plan that it made." in await _html(page)


async def test_an_operator_in_trouble_says_so(page: PlanPage, patient: Patient) -> None:
    page.see(*_world())
    patient.trouble = "standby disks failed: <no answer>"
    html = await _html(page)
    assert "This operator is not ready: standby disks failed: &lt;no answer&gt;." in html
    patient.trouble = ""
    assert "not ready" not in await _html(page)


async def test_a_plan_is_rendered_once_and_not_in_the_loops_thread(
    page: PlanPage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def gather(*args: object) -> object:
        threads.append(threading.current_thread())
        return gather_sheet(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(plan_page, "gather_sheet", gather)
    page.see(*_world())
    await asyncio.gather(*(_html(page) for _ in range(5)))
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    page.see(*_world("other"))
    assert "other-0" not in await _html(page), "a second one within a second is not rendered"
    clock.advance(LEAST_SECONDS)
    assert "other-0" in await _html(page)
    assert len(threads) == 2


async def test_the_age_is_that_of_the_plan_that_is_shown(page: PlanPage, clock: FakeClock) -> None:
    page.see(*_world())
    await _html(page)
    clock.advance(LEAST_SECONDS / 2)
    page.see(*_world("other"))
    clock.advance(LEAST_SECONDS / 4)
    assert "planned 1 s ago" in await _html(page)


async def test_how_it_is_served(page: PlanPage, url: str) -> None:
    page.see(*_world())
    document = await page.page(refreshes=False)
    async with aiohttp.ClientSession() as session, session.get(f"{url}/?refresh=no") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["Content-Security-Policy"] == f"{document.policy}; frame-ancestors 'none'"
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert 'http-equiv="refresh"' not in await answer.text()
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert 'http-equiv="refresh"' in await answer.text()


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", 200), ("POST", 405), ("PUT", 405), ("PATCH", 405), ("DELETE", 405), ("OPTIONS", 405)],
)
async def test_it_can_only_be_read(url: str, method: str, status: int) -> None:
    async with aiohttp.ClientSession() as session, session.request(method, url) as answer:
        assert answer.status == status
        assert method != "HEAD" or await answer.read() == b""


async def test_without_the_flag_there_is_no_page(patient: Patient) -> None:
    server = HealthServer(patient, metrics=lambda: b"")
    url = await server.start(host="127.0.0.1", port=0)
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert answer.status == 404
    await server.close()


async def test_all_who_ask_share_the_bytes_until_a_word_changes(page: PlanPage, clock: FakeClock) -> None:
    page.see(*_world())
    first = await page.page(refreshes=True)
    assert (await page.page(refreshes=True)).body is first.body
    assert (await page.page(refreshes=False)).body is not first.body
    assert (await page.page(refreshes=True)).body is first.body
    clock.advance(1)
    assert "planned 1 s ago" in await _html(page)


async def test_the_whole_page_is_made_outside_of_the_loops_thread(
    page: PlanPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def render(body: Body, frame: Frame) -> Document:
        threads.append(threading.current_thread())
        return render_document(body, frame)

    monkeypatch.setattr(plan_page, "render_document", render)
    page.see(*_world())
    await asyncio.gather(*(_html(page) for _ in range(5)))
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_a_page_that_cannot_be_made_is_no_trouble_for_health(
    page: PlanPage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_page, "gather_sheet", lambda *_: 1 / 0)
    page.see(*_world())
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as answer:
            assert answer.status == 200
            html = await answer.text()
        async with session.get(f"{url}/healthz") as answer:
            assert answer.status == 200
    assert "The last plan cannot be drawn. That is a fault of slmpack" in html
    assert "no page of a plan" in html
    assert "Nothing has been planned yet" not in html


async def test_a_plan_that_cannot_be_drawn_is_tried_and_logged_once_and_the_page_before_stays(
    page: PlanPage, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page.see(*_world())
    await _html(page)
    tries = []

    def fail(*_: object) -> None:
        tries.append(1)
        raise ValueError("no such bar")

    monkeypatch.setattr(plan_page, "gather_sheet", fail)
    clock.advance(LEAST_SECONDS)
    page.see(*_world("other"))
    for _ in range(3):
        clock.advance(LEAST_SECONDS)
        html = await _html(page)
        assert "qwen-0" in html
        assert "The last plan cannot be drawn; below is an earlier one." in html
    assert "planned 4 s ago" in html, "the age is that of the plan that is shown"
    assert len(tries) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "no such bar" in caplog.text
    monkeypatch.setattr(plan_page, "gather_sheet", gather_sheet)
    page.see(*_world("third"))
    html = await _html(page)
    assert "third-0" in html
    assert "cannot be drawn" not in html
