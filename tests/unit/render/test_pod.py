from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.domain.engine import EngineVersion
from slmpack.domain.sharing import Exclusive, MigSlice, MpsShare, Share
from slmpack.render.gpu import gpu_env
from slmpack.render.lifecycle import drain_within, pre_stop, probes
from slmpack.render.pod import render_pod
from slmpack.render.service import render_service
from tests.support.render_cases import (
    CASES,
    DRA,
    ENGINES,
    EXCLUSIVE,
    KNOBS,
    MIG,
    MPS,
    PACK,
    SPEC,
    a_create,
    a_demand,
    a_deployment,
    render,
)

MIB = 1024**2


def pod(share: Share = EXCLUSIVE, **changes: Any) -> dict[str, Any]:
    return render_pod(a_create(share, **changes), engines=ENGINES)


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    (only,) = manifest["spec"]["containers"]
    return only  # type: ignore[no-any-return]


def env(manifest: dict[str, Any]) -> dict[str, Any]:
    variables = container(manifest)["env"]
    found = {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in variables}
    assert len(found) == len(variables)
    return found


@pytest.mark.parametrize(
    ("share", "restart", "own_shm"),
    [(EXCLUSIVE, "Always", True), (MIG, "Always", True), (MPS, "Never", False), (PACK, "Always", True)],
)
def test_each_kind_of_share(share: Share, restart: str, own_shm: bool) -> None:
    manifest = render(a_create(share))
    assert manifest["spec"]["restartPolicy"] == restart
    assert ("/dev/shm" in {mount["mountPath"] for mount in container(manifest)["volumeMounts"]}) is own_shm
    assert container(manifest)["resources"]["limits"] == {share.resource: "1"}


@pytest.mark.parametrize(("limit", "text"), [(8 * 1024 * MIB, "0=8192M"), (8 * 1024 * MIB - 1, "0=8191M")])
def test_the_mps_limit_is_whole_mebibytes_and_never_above_the_share(limit: int, text: str) -> None:
    share = MpsShare(
        resource="nvidia.com/gpu",
        replicas=8,
        gpu_memory_bytes=80 * 1024 * MIB,
        limit_bytes=limit,
        active_thread_percentage=12,
    )
    assert gpu_env(share) == {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": text, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "12"}


def test_a_claim_brings_the_device() -> None:
    manifest = pod(DRA)
    (claim,) = manifest["spec"]["resourceClaims"]
    resources = container(manifest)["resources"]
    assert resources["claims"] == [{"name": claim["name"]}]
    assert set(resources) == {"claims", "requests"}
    assert set(resources["requests"]) == {"cpu", "memory"}
    assert "resourceClaims" not in pod()["spec"]
    assert "claims" not in container(pod())["resources"]


def test_nothing_replaces_what_bounds_the_engine() -> None:
    variables = [{"name": "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "value": "0=80G"}, {"name": "HF_HOME", "value": "/mine"}]
    found = env(pod(MPS, template={**SPEC, "pod": {"env": variables}}))
    assert found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=20389M"
    assert found["HF_HOME"] == "/mine"


def test_nothing_replaces_our_labels_and_annotations() -> None:
    theirs = {"slmpack.dev/name": "other", "slmpack.dev/node": "other", "mine": "kept"}
    manifest = pod(template={**SPEC, "pod": {"labels": theirs, "annotations": theirs}})
    assert manifest["metadata"]["labels"]["slmpack.dev/name"] == "chat"
    assert manifest["metadata"]["annotations"]["slmpack.dev/node"] == "gpu-1"
    assert manifest["metadata"]["labels"]["mine"] == manifest["metadata"]["annotations"]["mine"] == "kept"
    demand = a_demand({**SPEC, "service": {"labels": theirs}})
    service = render_service(a_deployment(demand=demand), demand)
    assert service["metadata"]["labels"]["slmpack.dev/name"] == "chat"


def test_a_service_selects_every_pod_of_its_deployment() -> None:
    for create in CASES.values():
        selector = render_service(create.deployment, create.demand)["spec"]["selector"]
        assert selector.items() <= render_pod(create, engines=ENGINES)["metadata"]["labels"].items()


def test_the_token_is_a_reference() -> None:
    found = env(pod(template=KNOBS))
    assert found["HF_TOKEN"] == {"secretKeyRef": {"name": "hf", "key": "token"}}
    assert "HF_TOKEN" not in env(pod())


def test_counted_requests_win_over_the_template() -> None:
    resources = {"requests": {"cpu": "64", "ephemeral-storage": "1Gi"}, "limits": {"memory": "16Gi"}}
    found = container(pod(template={**SPEC, "pod": {"resources": resources}}, cpu_millicores=2500))["resources"]
    assert found["requests"] == {
        "cpu": "2500m",
        "memory": str(6 * 1024 * MIB),
        "ephemeral-storage": "1Gi",
        "nvidia.com/gpu": "1",
    }
    assert found["limits"] == {"memory": "16Gi", "nvidia.com/gpu": "1"}


def test_the_usual_taint_is_tolerated_once() -> None:
    usual = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert pod()["spec"]["tolerations"] == [usual]
    assert pod(template=KNOBS)["spec"]["tolerations"] == [usual, KNOBS["sharing"]["tolerations"][1]]


@pytest.mark.parametrize(
    ("grace", "waits", "sleeps", "timeout"),
    [
        (60, True, 10, 35),
        (60, False, 45, None),
        (3600, True, 10, 3575),
        (30, True, 10, 10),
        (30, False, 20, None),
        (3, True, 1, 1),
        (3, False, 2, None),
        (1, True, 0, 1),
        (1, False, 1, None),
    ],
)
def test_drain(grace: int, waits: bool, sleeps: int, timeout: int | None) -> None:
    drain = drain_within(grace, waits=waits)
    assert (drain.pre_stop_seconds, drain.shutdown_timeout_seconds) == (sleeps, timeout)


@given(grace=st.integers(min_value=1, max_value=3600), waits=st.booleans())
def test_a_drain_ends_within_its_grace_period(grace: int, waits: bool) -> None:
    drain = drain_within(grace, waits=waits)
    spent = drain.pre_stop_seconds + (drain.shutdown_timeout_seconds or 0)
    assert 0 < spent <= grace
    assert spent < grace or grace < 3
    assert bool(pre_stop(drain)) is (drain.pre_stop_seconds > 0)


def test_a_grace_period_too_short_for_a_sleep_has_none() -> None:
    assert pre_stop(drain_within(2, waits=True)) == {}


def test_an_old_engine_drains_before_sigterm() -> None:
    manifest = pod(engine_version=EngineVersion(0, 11))
    assert container(manifest)["lifecycle"] == {"preStop": {"sleep": {"seconds": 45}}}
    assert manifest["spec"]["terminationGracePeriodSeconds"] == 60


@pytest.mark.parametrize(
    ("budget", "threshold"), [(timedelta(seconds=600), 240), (timedelta(seconds=1), 1), (timedelta(seconds=901), 361)]
)
def test_the_kubelet_gives_up_on_a_start_after_the_operator(budget: timedelta, threshold: int) -> None:
    found = probes(budget)["startupProbe"]
    assert found["failureThreshold"] == threshold
    assert found["failureThreshold"] * found["periodSeconds"] >= 2 * budget.total_seconds()


RESOURCES = st.sampled_from(["nvidia.com/gpu", "nvidia.com/gpu.shared"])
SIZES = st.integers(min_value=MIB, max_value=200 * 1024 * MIB)
SHARES = st.one_of(
    st.builds(Exclusive, resource=RESOURCES, memory_bytes=SIZES),
    st.builds(MigSlice, resource=st.just("nvidia.com/mig-1g.10gb"), profile=st.just("1g.10gb"), memory_bytes=SIZES),
    st.builds(
        MpsShare,
        resource=RESOURCES,
        replicas=st.integers(min_value=2, max_value=48),
        gpu_memory_bytes=SIZES,
        limit_bytes=SIZES,
        active_thread_percentage=st.integers(min_value=1, max_value=100),
    ),
)
VERSIONS = st.builds(EngineVersion, st.just(0), st.integers(min_value=11, max_value=33))
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


@given(
    share=SHARES,
    name=st.from_regex(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?", fullmatch=True),
    ordinal=st.integers(min_value=0, max_value=10_000),
    version=VERSIONS,
    kv_bytes=st.none() | SIZES,
    template=st.sampled_from([create.demand.template for create in CASES.values()]),
)
def test_any_pod(
    share: Share, name: str, ordinal: int, version: EngineVersion, kv_bytes: int | None, template: Any
) -> None:
    create = a_create(
        share,
        name=name,
        ordinal=ordinal,
        engine_version=version,
        kv_bytes=kv_bytes,
        template=template,
        model_source=template["model"]["source"],
    )
    manifest = render_pod(create, engines=ENGINES)
    text = json.dumps(manifest)
    assert json.loads(text) == manifest
    assert text == json.dumps(render_pod(create, engines=ENGINES))
    assert len(manifest["metadata"]["name"]) <= 63
    for key, value in manifest["metadata"]["labels"].items():
        assert QUALIFIED.fullmatch(key)
        assert len(value) <= 63
        assert LABEL_VALUE.fullmatch(value)
    resources = container(manifest)["resources"]
    assert [one for one in resources["limits"].items() if one[0].startswith("nvidia.com/")] == [(share.resource, "1")]
    # D5b: which GPU it is, the kubelet decides.
    assert not {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"} & env(manifest).keys()
    named = {volume["name"] for volume in manifest["spec"]["volumes"]}
    assert {mount["name"] for mount in container(manifest)["volumeMounts"]} <= named
