"""Every check holds on a GPU that is as the facts say, and turns red where one fact is otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu import attach
from tests.gpu.attach import attach_checks
from tests.gpu.check import Check
from tests.gpu.limits import limit_checks
from tests.unit.gpu_checks.fake_lab import FakeLab, World, as_lab, broken, detect


@pytest.fixture(autouse=True)
def _no_daemon_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "unlimited_outside", lambda: True)


def checks(world: World) -> dict[str, Check]:
    lab = as_lab(FakeLab(world=world, folder=Path("/none")))
    return {check.name: check for check in (*limit_checks(lab), *attach_checks(lab, detect))}


@pytest.mark.parametrize("name", sorted(checks(World())))
def test_what_the_facts_say_holds(name: str) -> None:
    assert broken(checks(World())[name]) == set()


@pytest.mark.parametrize("mode", ["DEFAULT", "EXCLUSIVE_PROCESS"])
def test_outside_of_mps_a_process_has_no_limit_or_cannot_start(mode: str) -> None:
    assert broken(checks(World(compute_mode=mode))["mps-attach-empty"]) == set()


@pytest.mark.parametrize(
    ("world", "name", "promise"),
    [
        (World(enforced=False), "mps-limit-2048", "no more than 2048 MiB can be allocated"),
        (World(enforced=False), "mps-limit-two", "limit 8192: no more than 8192 MiB"),
        (World(enforced=False), "mps-limit-default", "no limit in the environment: no more than 6144 MiB"),
        (World(enforced=False), "mps-attach-right", "says attached"),
        (World(total_is_limit=True), "mps-limit-8192", "total is that of the whole GPU"),
        (World(free_is_whole=True), "mps-limit-8192", "free is the limit"),
        (World(env_can_raise=True), "mps-limit-default", "environment above the default: no more than 6144 MiB"),
        (World(default_is_live=True), "mps-limit-default", "while the server runs: most of the limit can be used"),
        (World(limits_outside=True), "mps-attach-empty", "it runs, without a limit"),
        (World(limits_outside=True), "mps-attach-missing", "it runs, without a limit"),
        (World(limits_outside=True), "mps-attach-unset", "it runs, without a limit"),
        (World(invisible_is_ignored=True), "mps-attach-invisible", "GPU 0 and a GPU 7 named"),
        (World(many_users=True), "mps-uid-queue", "it waits while another user id has a client"),
        (World(detects=False), "mps-attach-right", "says attached"),
        (World(detects=False), "mps-attach-empty", "says NotAttached"),
        (World(detects=False), "mps-attach-missing", "says NotAttached"),
        (World(detects=False), "mps-attach-unset", "says NotAttached"),
        (World(detects=False), "mps-attach-invisible", "says NotAttached"),
        (World(detects=False), "mps-uid-queue", "says NotAttached"),
        (World(detects=False), "mps-uid-closed", "says NotAttached"),
        (World(detects=False), "mps-uid-daemon", "says attached"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fact_that_is_otherwise_is_seen(world: World, name: str, promise: str) -> None:
    assert [says for says in broken(checks(world)[name]) if promise in says]


def test_each_check_fits_a_session() -> None:
    assert all(check.seconds <= 290 for check in checks(World()).values())
