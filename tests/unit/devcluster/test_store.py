"""What the embedded store promises, request by request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from slmpack.api.crd import build_crd
from slmpack.devcluster.client import StoreApi
from slmpack.devcluster.scheduler import Scheduler
from slmpack.devcluster.store import Store
from slmpack.ports import Conflict, Gone, Invalid, NotFound, PortError, Unavailable
from tests.unit.devcluster.samples import CRD, PODS, SLM_PATH, problems, slm

Json = dict[str, Any]
MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
def store() -> Store:
    return Store(clock=lambda: datetime(2026, 11, 21, tzinfo=UTC), validate=problems, crds=[CRD])


@pytest.fixture
def api(store: Store) -> StoreApi:
    return StoreApi(store)


def a_pod(name: str = "p", **meta: Any) -> Json:
    return {"metadata": {"name": name} | meta, "spec": {"containers": [{"name": "c", "image": "i"}]}}


def a_node(name: str, **allocatable: str) -> Json:
    usual = {"cpu": "4", "memory": "8Gi", "pods": "10"}
    return {
        "metadata": {"name": name, "labels": {"zone": name}},
        "spec": {},
        "status": {"allocatable": usual | allocatable},
    }


async def test_create_gives_identity_and_drops_what_is_the_servers(api: StoreApi) -> None:
    made = await api.create(SLM_PATH, slm() | {"status": {"ready": "9/9"}})
    assert made["metadata"]["namespace"] == "default"
    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["creationTimestamp"] == "2026-11-21T00:00:00Z"
    assert made["metadata"]["uid"]
    assert "status" not in made
    assert await api.get(f"{SLM_PATH}/qwen") == made


async def test_the_schemas_default_of_status_stands_until_somebody_reports() -> None:
    default = {"observedGeneration": -1}
    api = StoreApi(Store(clock=lambda: datetime(2026, 11, 21, tzinfo=UTC), crds=[build_crd()]))
    made = await api.create(SLM_PATH, slm() | {"status": {"ready": "9/9"}})
    assert made["status"] == default
    assert await api.replace(f"{SLM_PATH}/qwen", slm()) == made, "the main endpoint leaves status alone"
    told = await api.apply(f"{SLM_PATH}/qwen/status", slm() | {"status": {"observedGeneration": 1, "ready": "1/1"}})
    assert told["status"] == {"observedGeneration": 1, "ready": "1/1"}
    assert (await api.replace(f"{SLM_PATH}/qwen/status", slm()))["status"] == default


async def test_generate_name_makes_different_names(api: StoreApi) -> None:
    bodies = [{"metadata": {"generateName": "a-"}} for _ in range(2)]
    names = {(await api.create(MAPS, body))["metadata"]["name"] for body in bodies}
    assert len(names) == 2
    assert all(name.startswith("a-") for name in names)


REFUSED: dict[str, tuple[Callable[[StoreApi], Awaitable[object]], type[PortError], str]] = {
    "unknown kind": (lambda api: api.list("/apis/x.io/v1/things"), NotFound, "could not find the requested resource"),
    "unknown object": (lambda api: api.get(f"{PODS}/nobody"), NotFound, 'pods "nobody" not found'),
    "taken name": (lambda api: api.create(PODS, a_pod("taken")), Conflict, 'pods "taken" already exists'),
    "no namespace": (
        lambda api: api.create("/api/v1/namespaces/nowhere/pods", a_pod()),
        NotFound,
        'namespaces "nowhere" not found',
    ),
    "other namespace": (lambda api: api.create(PODS, a_pod(namespace="other")), Invalid, "does not match"),
    "no name": (lambda api: api.create(MAPS, {"metadata": {}}), Invalid, "name or generateName is required"),
    "no container": (
        lambda api: api.create(PODS, {"metadata": {"name": "x"}, "spec": {}}),
        Invalid,
        "spec.containers: Required value",
    ),
    "invalid custom object": (
        lambda api: api.create(SLM_PATH, slm("other", model="")),
        Invalid,
        "spec.model: Required value",
    ),
    "changed pod": (
        lambda api: api.patch(f"{PODS}/taken", {"spec": {"restartPolicy": "Never"}}),
        Invalid,
        "pod updates may not change fields other than",
    ),
    "old version": (
        lambda api: api.patch(f"{PODS}/taken", {"metadata": {"resourceVersion": "1", "labels": {"a": "b"}}}),
        Conflict,
        "the object has been modified",
    ),
    "other uid": (lambda api: api.delete(f"{PODS}/taken", uid="another"), Conflict, "UID in precondition: another"),
    "scale without replicas": (
        lambda api: api.get(f"{SLM_PATH}/qwen/scale"),
        Unavailable,
        'the spec replicas field ".spec.replicas" does not exist',
    ),
    "bad selector": (lambda api: api.list(PODS, {"labelSelector": "a=b c"}), Invalid, "unable to parse requirement"),
    "status of a kind without": (lambda api: api.get(f"{MAPS}/x/status"), NotFound, "could not find"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_refusals(api: StoreApi, case: str) -> None:
    await api.create(PODS, a_pod("taken"))
    await api.create(SLM_PATH, slm())
    request, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        await request(api)


async def test_spec_and_status_are_written_apart(api: StoreApi) -> None:
    await api.create(SLM_PATH, slm())
    path = f"{SLM_PATH}/qwen"
    changed = await api.patch(path, {"spec": {"replicas": 2}, "status": {"ready": "1/1"}})
    assert (changed["spec"]["replicas"], changed["metadata"]["generation"], "status" in changed) == (2, 2, False)
    reported = await api.patch(f"{path}/status", {"spec": {"replicas": 9}, "status": {"ready": "1/2"}})
    assert (reported["spec"]["replicas"], reported["metadata"]["generation"]) == (2, 2)
    assert reported["status"] == {"ready": "1/2"}


async def test_a_write_that_changes_nothing_is_no_write(api: StoreApi, store: Store) -> None:
    await api.create(SLM_PATH, slm())
    body = {"status": {"ready": "1/1"}}
    await api.apply(f"{SLM_PATH}/qwen/status", body, field_manager="slmpack")
    before = store.version
    await api.apply(f"{SLM_PATH}/qwen/status", body, field_manager="slmpack")
    await api.patch(f"{SLM_PATH}/qwen", {"metadata": {"labels": {}}, "spec": slm()["spec"]})
    assert int(store.version) - int(before) <= 1
    assert (await api.get(f"{SLM_PATH}/qwen"))["metadata"]["generation"] == 1


async def test_apply_removes_what_its_manager_no_longer_applies(api: StoreApi) -> None:
    path = f"{MAPS}/m"
    await api.apply(
        path, {"metadata": {"labels": {"a": "1", "b": "1"}}, "data": {"x": "1", "y": "1"}}, field_manager="one"
    )
    await api.apply(path, {"data": {"y": "1", "z": "1"}}, field_manager="two")
    await api.patch(path, {"data": {"by-hand": "1"}})
    after = await api.apply(path, {"metadata": {"labels": {"b": "1"}}, "data": {}}, field_manager="one")
    assert after["data"] == {"y": "1", "z": "1", "by-hand": "1"}
    assert after["metadata"]["labels"] == {"b": "1"}
    with pytest.raises(Conflict, match="uid mismatch"):
        await api.apply(path, {"metadata": {"uid": "another"}, "data": {}}, field_manager="one")
    with pytest.raises(NotFound):
        await api.apply(f"{SLM_PATH}/gone/status", {"status": {}}, field_manager="slmpack")


@pytest.mark.parametrize(
    ("content_type", "patch", "ports"),
    [
        ("application/merge-patch+json", {"spec": {"ports": [{"port": 81}]}}, [81]),
        ("application/strategic-merge-patch+json", {"spec": {"ports": [{"port": 81}]}}, [80, 81]),
        ("application/strategic-merge-patch+json", {"spec": {"ports": [{"port": 80, "$patch": "delete"}]}}, []),
        ("application/json-patch+json", [{"op": "add", "path": "/spec/ports/-", "value": {"port": 81}}], [80, 81]),
        ("application/json-patch+json", [{"op": "replace", "path": "/spec/ports/0/port", "value": 82}], [82]),
        ("application/json-patch+json", [{"op": "remove", "path": "/spec/ports/0"}], []),
    ],
)
async def test_patch_types_treat_lists_differently(
    api: StoreApi, content_type: str, patch: Any, ports: list[int]
) -> None:
    await api.create(
        "/api/v1/namespaces/default/services", {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
    )
    after = await api.patch("/api/v1/namespaces/default/services/s", patch, content_type)
    assert [port["port"] for port in after["spec"]["ports"]] == ports


async def test_scale_reads_and_writes_the_spec(api: StoreApi) -> None:
    await api.create(SLM_PATH, slm(replicas=1))
    await api.apply(f"{SLM_PATH}/qwen/status", {"status": {"replicas": 1, "selector": "a=b"}}, field_manager="slmpack")
    await api.patch(f"{SLM_PATH}/qwen/scale", {"spec": {"replicas": 4}})
    scale = await api.get(f"{SLM_PATH}/qwen/scale")
    assert (scale["spec"], scale["status"]) == ({"replicas": 4}, {"replicas": 1, "selector": "a=b"})
    assert (await api.get(f"{SLM_PATH}/qwen"))["metadata"]["generation"] == 2


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"labelSelector": "app=x"}, "a"),
        ({"labelSelector": "app!=x"}, "bc"),
        ({"labelSelector": "app in (x,y),!old"}, "a"),
        ({"labelSelector": "app notin (x)"}, "bc"),
        ({"labelSelector": "app"}, "ab"),
        ({"fieldSelector": "metadata.name=b"}, "b"),
        ({"fieldSelector": "metadata.name!=b,status.phase=Pending"}, "ac"),
    ],
)
async def test_selectors(api: StoreApi, params: dict[str, str], names: str) -> None:
    await api.create(PODS, a_pod("a", labels={"app": "x"}))
    await api.create(PODS, a_pod("b", labels={"app": "y", "old": ""}))
    await api.create(PODS, a_pod("c"))
    assert "".join(pod["metadata"]["name"] for pod in (await api.list(PODS, params))[0]) == names


async def events_of(api: StoreApi, path: str, since: str, count: int, **params: str) -> list[tuple[str, str]]:
    seen = []
    async with asyncio.timeout(2):
        async for kind, obj in api.watch(path, resource_version=since, params=params):
            seen.append((kind, obj["metadata"]["name"]))
            if len(seen) == count:
                break
    return seen


async def test_a_watch_resumes_from_a_version_and_sees_selection_changes(api: StoreApi) -> None:
    _, version = await api.list(MAPS)
    await api.create(MAPS, {"metadata": {"name": "m", "labels": {"a": "1"}}})
    await api.patch(f"{MAPS}/m", {"metadata": {"labels": {"a": "2"}}})
    await api.patch(f"{MAPS}/m", {"metadata": {"labels": {"a": "1"}}})
    await api.delete(f"{MAPS}/m")
    whole = await events_of(api, MAPS, version, 4)
    assert [kind for kind, _ in whole] == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]
    selected = await events_of(api, MAPS, version, 4, labelSelector="a=1")
    assert [kind for kind, _ in selected] == ["ADDED", "DELETED", "ADDED", "DELETED"]


async def test_a_version_that_is_too_old_is_gone(api: StoreApi, store: Store) -> None:
    await api.create(MAPS, {"metadata": {"name": "m"}})
    store.forget_history()
    with pytest.raises(Gone, match="too old resource version"):
        await events_of(api, MAPS, "1", 1)


async def test_a_short_history_forgets_by_itself() -> None:
    store = Store(clock=lambda: datetime(2026, 1, 1, tzinfo=UTC), history=3)
    api = StoreApi(store)
    _, version = await api.list(MAPS)
    for name in "abcd":
        await api.create(MAPS, {"metadata": {"name": name}})
    with pytest.raises(Gone):
        await events_of(api, MAPS, version, 1)


async def test_owners_take_their_children_along(api: StoreApi) -> None:
    owner = await api.create(SLM_PATH, slm())
    reference = {"kind": "SLMDeployment", "name": "qwen", "uid": owner["metadata"]["uid"], "apiVersion": "v1"}
    await api.create(PODS, a_pod(ownerReferences=[reference]))
    await api.create(PODS, a_pod("other"))
    await api.delete(f"{SLM_PATH}/qwen")
    assert [pod["metadata"]["name"] for pod in (await api.list(PODS))[0]] == ["other"]


async def test_deleting_a_namespace_empties_it(api: StoreApi) -> None:
    await api.create("/api/v1/namespaces", {"metadata": {"name": "team"}})
    await api.create("/api/v1/namespaces/team/configmaps", {"metadata": {"name": "m"}})
    await api.delete("/api/v1/namespaces/team")
    assert (await api.list("/api/v1/namespaces/team/configmaps"))[0] == []


async def test_a_definition_takes_its_objects_along_and_an_update_of_it_counts(api: StoreApi, store: Store) -> None:
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    owner = await api.create(SLM_PATH, slm())
    await api.create(PODS, a_pod(ownerReferences=[{"uid": owner["metadata"]["uid"]}]))
    await api.patch(f"{crds}/slmdeployments.slmpack.dev", {"spec": {"names": {"shortNames": ["small"]}}})
    assert store.registry.by_plural("slmpack.dev", "v1alpha1", "slmdeployments").short_names == ("small",)
    await api.delete(f"{crds}/slmdeployments.slmpack.dev")
    assert (await api.list(PODS))[0] == []
    with pytest.raises(NotFound):
        await api.list(SLM_PATH)
    await api.create(crds, CRD)
    assert (await api.list(SLM_PATH))[0] == []


async def test_finalizers_hold_an_object_until_they_are_gone(api: StoreApi) -> None:
    await api.create(MAPS, {"metadata": {"name": "m", "finalizers": ["x/y"]}})
    await api.delete(f"{MAPS}/m")
    assert "deletionTimestamp" in (await api.get(f"{MAPS}/m"))["metadata"]
    await api.patch(f"{MAPS}/m", {"metadata": {"finalizers": None}})
    with pytest.raises(NotFound):
        await api.get(f"{MAPS}/m")


async def test_a_bound_pod_is_marked_and_its_kubelet_ends_it(api: StoreApi) -> None:
    await api.create(PODS, a_pod())
    await api.create(f"{PODS}/p/binding", {"target": {"name": "n"}})
    await api.delete(f"{PODS}/p")
    meta = (await api.get(f"{PODS}/p"))["metadata"]
    assert (meta["deletionTimestamp"], meta["deletionGracePeriodSeconds"]) == ("2026-11-21T00:00:30Z", 30)
    await api.delete(f"{PODS}/p", uid=meta["uid"], grace_period_seconds=0)
    with pytest.raises(NotFound):
        await api.get(f"{PODS}/p")


@pytest.mark.parametrize("phase", [None, "Failed"])
async def test_a_pod_that_nobody_runs_goes_at_once(api: StoreApi, phase: str | None) -> None:
    await api.create(PODS, a_pod())
    if phase:
        await api.create(f"{PODS}/p/binding", {"target": {"name": "n"}})
        await api.patch(f"{PODS}/p/status", {"status": {"phase": phase}})
    await api.delete(f"{PODS}/p")
    assert (await api.list(PODS))[0] == []


async def test_both_event_groups_are_one_store(api: StoreApi) -> None:
    new = {"metadata": {"name": "e"}, "regarding": {"name": "q"}, "note": "hello", "reportingController": "slmpack"}
    await api.create("/apis/events.k8s.io/v1/namespaces/default/events", new)
    core = await api.get("/api/v1/namespaces/default/events/e")
    assert (core["involvedObject"], core["message"], core["apiVersion"]) == ({"name": "q"}, "hello", "v1")
    back = await api.get("/apis/events.k8s.io/v1/namespaces/default/events/e")
    assert (back["regarding"], back["note"], back["apiVersion"]) == ({"name": "q"}, "hello", "events.k8s.io/v1")


async def test_every_access_review_says_yes(api: StoreApi) -> None:
    review = {"spec": {"resourceAttributes": {"verb": "list", "resource": "pods"}}}
    answer = await api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    assert answer["status"] == {"allowed": True}


def affine(*terms: Json, **extra: Any) -> Json:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return a_pod() | {"spec": a_pod()["spec"] | {"affinity": {"nodeAffinity": required}} | extra}


FIELD = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}
ON_C = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["c"]}]}
LABEL = {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}
TOLERATION = {"key": "gpu", "operator": "Exists"}


@pytest.mark.parametrize(
    ("pod", "node", "message"),
    [
        (a_pod(), "a", ""),
        (affine(FIELD), "b", ""),
        (affine(LABEL), "b", ""),
        (
            affine({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["z"]}]}),
            None,
            "2 node(s) didn't match",
        ),
        (affine(FIELD, nodeSelector={"zone": "a"}), None, "didn't match Pod's node affinity/selector"),
        (affine(ON_C), None, "untolerated taint(s) {gpu: }"),
        (affine(ON_C, tolerations=[TOLERATION]), "c", ""),
    ],
)
async def test_the_scheduler_binds_where_the_pod_may_run(
    store: Store, pod: Json, node: str | None, message: str
) -> None:
    api = StoreApi(store)
    Scheduler(store)
    for name in "ab":
        await api.create("/api/v1/nodes", a_node(name))
    await api.create("/api/v1/nodes", a_node("c") | {"spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]}})
    assert "nodeName" not in (await api.create(PODS, pod))["spec"]
    placed = await api.get(f"{PODS}/p")
    assert placed["spec"].get("nodeName") == node
    condition = placed["status"]["conditions"][0]
    assert (condition["status"] == "True") is (node is not None)
    assert message in condition.get("message", "")


async def test_the_scheduler_counts_what_is_used_and_tries_again(store: Store) -> None:
    api = StoreApi(store)
    Scheduler(store)
    await api.create("/api/v1/nodes", a_node("a", **{"nvidia.com/gpu": "1"}))
    for name in "pq":
        pod = a_pod(name)
        pod["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
        await api.create(PODS, pod)
    waiting = await api.get(f"{PODS}/q")
    assert waiting["status"]["conditions"][0]["message"] == "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    await api.patch(f"{PODS}/p/status", {"status": {"phase": "Failed"}})
    assert (await api.get(f"{PODS}/q"))["spec"]["nodeName"] == "a"
