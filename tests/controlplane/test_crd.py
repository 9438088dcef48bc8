"""The CRD on a real API server: what it accepts, what it refuses and in which words, what it keeps, how it explains."""

from __future__ import annotations

import copy
import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from slmpack.api.crd import build_crd, render_crd
from slmpack.api.parse import parse_slmdeployment
from slmpack.api.status import NOTHING_SAID
from tests.support.control_plane import ApiError, ControlPlane
from tests.support.spec_tables import BadSpec, bad_specs, examples, good_specs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

API = "/apis/slmpack.dev/v1alpha1"
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/slmdeployments.slmpack.dev"


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> ControlPlane:
    control_plane.kubectl("apply", "--server-side", "-f", "-", input=render_crd())
    _eventually(lambda: control_plane.kubectl("explain", "slmdeployment.spec", check=False).returncode == 0)
    return control_plane


def _eventually(is_true: Callable[[], bool], *, seconds: float = 30.0) -> None:
    """Discovery and OpenAPI follow the CRD after a moment."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def namespace(cluster: ControlPlane) -> str:
    return cluster.new_namespace("crd")


def _create(cluster: ControlPlane, namespace: str, obj: dict[str, Any], *, dry_run: bool = True) -> dict[str, Any]:
    """Create as kubectl does, with strict field validation."""
    query = "fieldValidation=Strict" + ("&dryRun=All" if dry_run else "")
    path = f"{API}/namespaces/{namespace}/slmdeployments?{query}"
    created: dict[str, Any] = cluster.request("POST", path, body=obj)
    return created


def _refusal(error: ApiError) -> str:
    """The message of the Status that the API server answered with."""
    status = json.loads(str(error)[str(error).index("{") :])
    message: str = status["message"]
    return message


def test_the_crd_has_no_complaints(cluster: ControlPlane) -> None:
    conditions = {c["type"]: c["status"] for c in cluster.request("GET", CRD_PATH)["status"]["conditions"]}
    assert conditions["Established"] == "True"
    assert conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"


@pytest.mark.parametrize("row", bad_specs(), ids=lambda row: row.name)
def test_bad_spec_is_refused_in_the_tables_words(cluster: ControlPlane, namespace: str, row: BadSpec) -> None:
    if row.server is None:
        _create(cluster, namespace, row.obj)
        return
    with pytest.raises(ApiError) as refused:
        _create(cluster, namespace, row.obj)
    assert row.server in _refusal(refused.value)


@pytest.mark.parametrize("obj", [*good_specs(), *examples().values()], ids=lambda obj: obj["metadata"]["name"])
def test_good_spec_is_kept_as_it_is(cluster: ControlPlane, namespace: str, obj: dict[str, Any]) -> None:
    stored = _create(cluster, namespace, obj, dry_run=False)
    assert stored["spec"] == obj["spec"]
    assert stored["status"] == NOTHING_SAID


ODD_TEXTS = (
    "",
    " ",
    "a",
    "A",
    "0",
    "a-",
    "-a",
    "a.b",
    "a..b",
    ".a",
    "_",
    "a/b",
    "a//b",
    "/",
    "//",
    "/a/",
    "/.",
    "/..",
    "/a/./b",
    "/...",
    "/dev",
    "/dev/",
    "/dev/shm",
    "/dev/shm/x",
    "/devshm",
    "/a:b",
    "/root/.cache/huggingface",
    "/root/.cache/huggingface2",
    "a b",
    "a\n",
    "/a\n",
    "a\tb",
    "é",
    "/é",
    "\uff11",
    "a=b",
    "v0.33.0",
    "0.33",
    "0.33.",
    "0.33.0-cu12",
    "0.33.0+x",
    "1Gi",
    "1.5",
    "1e3",
    "1e",
    ".5",
    "5.",
    "-1",
    "+1",
    "1Kb",
    "500m",
    "hf://a/b",
    "hf://a/b/c",
    "hf://a",
    "hf://a/b\n",
    "HF://a/b",
    "pvc://c",
    "pvc://c/",
    "pvc://c/a/b",
    "pvc://C/a",
    "pvc://c//a",
    "pvc://c/.a",
    "pvc://c/..",
    "CUDA_X",
    "CUDA",
    "NVIDIA_X",
    "X-SHARED",
    "slmpack-x",
    "slmpack.dev/x",
    "app.kubernetes.io/name",
    "app.kubernetes.io/version",
    "x" * 63,
    "x" * 64,
    "x" * 600,
)
ODD_NUMBERS: tuple[Any, ...] = (-1, 0, 1, 2, 48, 49, 65_535, 65_536, 2**31, 2**53, 1.0, 1.5, True, "1", [], {})
TEXTS_GO = (
    "metadata.name",
    "model.source",
    "model.revision",
    "model.tokenSecret.name",
    "model.cache.hostPath.path",
    "engine.image",
    "engine.version",
    "sharing.gpuProducts[]",
    "sharing.tolerations[].key",
    "sharing.tolerations[].value",
    "service.labels{}",
    "service.labels{key}",
    "pod.annotations{key}",
    "pod.resources.limits{key}",
    "pod.resources.limits.cpu",
    "engine.args{key}",
    "pod.env[].name",
    "pod.envFrom[].prefix",
    "pod.volumes[].name",
    "pod.volumeMounts[].mountPath",
    "pod.serviceAccountName",
)
NUMBERS_GO = (
    "replicas",
    "engine.maxModelLen",
    "engine.startupTimeoutSeconds",
    "sharing.maxPerGPU",
    "service.port",
    "pod.terminationGracePeriodSeconds",
    "pod.resources.requests.memory",
)


def _place(path: str, value: Any) -> dict[str, Any]:
    """An otherwise good object with a value at a path."""
    spec: dict[str, Any] = {"model": {"source": "hf://a/b", "tokenSecret": {"name": "t", "key": "k"}}}
    obj: dict[str, Any] = {"apiVersion": "slmpack.dev/v1alpha1", "kind": "SLMDeployment", "metadata": {"name": "odd"}}
    obj["spec"] = spec
    if path == "metadata.name":
        obj["metadata"]["name"] = value
        return obj
    beside: dict[str, dict[str, Any]] = {
        "pod.envFrom": {"configMapRef": {"name": "x"}},
        "pod.volumes": {"emptyDir": {}},
        "pod.volumeMounts": {"name": "v"},
        "sharing.tolerations": {"key": "k", "operator": "Equal"},
    }
    if path.startswith("pod.volumeMounts"):
        spec |= {"pod": {"volumes": [{"name": "v", "emptyDir": {}}]}}
        spec["model"]["cache"] = {"hostPath": {"path": "/c"}}
    place: Any = spec
    *parents, last = path.split(".")
    for parent in parents:
        if parent.endswith("[]"):
            item = dict(beside.get(path.split("[", maxsplit=1)[0], {}))
            place[parent[:-2]] = [item]
            place = item
        else:
            place = place.setdefault(parent, {})
    if last.endswith("[]"):
        place[last[:-2]] = [value]
    elif last.endswith("{key}"):
        place[last[:-5]] = {value: "1"}
    elif last.endswith("{}"):
        place[last[:-2]] = {"k": value}
    else:
        place[last] = value
    return obj


@pytest.mark.parametrize(
    ("path", "values"), [*((p, ODD_TEXTS) for p in TEXTS_GO), *((p, ODD_NUMBERS) for p in NUMBERS_GO)]
)
def test_crd_and_model_agree_on_odd_values(
    cluster: ControlPlane, namespace: str, path: str, values: tuple[Any, ...]
) -> None:
    differ = []
    for value in values:
        obj = _place(path, value)
        try:
            _create(cluster, namespace, obj)
            refusal = ""
        except ApiError as error:
            refusal = _refusal(error)
        found = parse_slmdeployment(obj)
        if bool(refusal) != isinstance(found, tuple):
            differ.append((value, refusal, found))
    assert differ == []


def test_an_example_is_applied_and_listed_by_kubectl(cluster: ControlPlane) -> None:
    namespace = cluster.new_namespace("columns")
    cluster.kubectl("apply", "-n", namespace, "-f", "-", input=yaml.safe_dump(examples()["qwen2.5-1.5b.yaml"]))
    name = examples()["qwen2.5-1.5b.yaml"]["metadata"]["name"]
    status = {
        "ready": "2/3",
        "perGPU": 7,
        "share": "MigSlice 1g.10gb",
        "gpu": "NVIDIA-A100-SXM4-80GB",
        "reason": "Starting",
    }
    cluster.kubectl(
        "patch",
        "-n",
        namespace,
        "slm",
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": status}),
    )
    header, row = cluster.kubectl("get", "slm", "-n", namespace).stdout.splitlines()
    assert re.split(r"\s{2,}", header.strip()) == ["NAME", "READY", "PER GPU", "SHARE", "GPU", "REASON", "AGE"]
    assert re.split(r"\s{2,}", row.strip())[:-1] == [name, *map(str, status.values())]
    wide = cluster.kubectl("get", "slm", "-n", namespace, "-o", "wide").stdout.splitlines()
    assert re.split(r"\s{2,}", wide[0].strip())[-1] == "SCALING"


def _names(schema: dict[str, Any]) -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        yield name
        yield from _names(child)
    yield from _names(schema.get("items", {})) if "items" in schema else ()


def test_kubectl_explain_shows_every_field(cluster: ControlPlane) -> None:
    shown = cluster.kubectl("explain", "slmdeployment.spec", "--recursive").stdout
    found = [line.split("\t", 1)[0].strip() for line in shown.splitlines() if "\t<" in line]
    schema = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert sorted(found) == sorted(_names(schema))


def test_kubectl_explain_says_the_default_and_an_example(cluster: ControlPlane) -> None:
    shown = " ".join(cluster.kubectl("explain", "slmdeployment.spec.engine.maxModelLen").stdout.split())
    assert "Default: the smaller of the model's own and 8192" in shown
    assert "Example: `4096`" in shown


def test_scale_reads_and_writes_the_spec(cluster: ControlPlane) -> None:
    namespace = cluster.new_namespace("scale")
    obj = examples()["mig.yaml"]
    name = obj["metadata"]["name"]
    path = f"{API}/namespaces/{namespace}/slmdeployments/{name}"
    _create(cluster, namespace, obj, dry_run=False)
    status = {"replicas": 4, "selector": "slmpack.dev/name=x"}
    cluster.kubectl(
        "patch",
        "-n",
        namespace,
        "slm",
        name,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": status}),
    )
    scale = cluster.request("GET", f"{path}/scale")
    assert scale["spec"] == {"replicas": 4}
    assert scale["status"] == {"replicas": 4, "selector": "slmpack.dev/name=x"}
    cluster.kubectl("scale", "-n", namespace, "slm", name, "--replicas=7")
    assert cluster.request("GET", path)["spec"]["replicas"] == 7


@pytest.mark.parametrize("scaling", [None, {"max": 4}], ids=["neither", "scaling"])
def test_scale_without_replicas_is_an_error(cluster: ControlPlane, scaling: dict[str, int] | None) -> None:
    namespace = cluster.new_namespace("scale")
    obj = copy.deepcopy(examples()["mig.yaml"])
    name = obj["metadata"]["name"]
    del obj["spec"]["replicas"]
    obj["spec"] |= {"scaling": scaling} if scaling else {}
    _create(cluster, namespace, obj, dry_run=False)
    with pytest.raises(ApiError, match=r"the spec replicas field \\?\".spec.replicas\\?\" does not exist"):
        cluster.request("GET", f"{API}/namespaces/{namespace}/slmdeployments/{name}/scale")


def test_what_is_scaled_cannot_be_given_a_fixed_number_beside(cluster: ControlPlane) -> None:
    namespace = cluster.new_namespace("scale")
    obj = examples()["chat.yaml"]
    _create(cluster, namespace, obj, dry_run=False)
    with pytest.raises(RuntimeError, match=r"give replicas .* or scaling, not both"):
        cluster.kubectl("scale", "-n", namespace, "slm", "chat", "--replicas=2")
    assert "replicas" not in cluster.request("GET", f"{API}/namespaces/{namespace}/slmdeployments/chat")["spec"]


def test_null_is_absent(cluster: ControlPlane, namespace: str) -> None:
    obj = copy.deepcopy(examples()["mps.yaml"])
    obj["metadata"]["name"] = "null"
    obj["spec"] |= {"pod": None, "service": {"port": None}}
    assert "pod" not in _create(cluster, namespace, obj)["spec"]


def test_status_of_the_operator_is_kept_whole(cluster: ControlPlane) -> None:
    namespace = cluster.new_namespace("status")
    obj = examples()["exclusive.yaml"]
    _create(cluster, namespace, obj, dry_run=False)
    status = {
        "observedGeneration": 1,
        "ready": "1/2",
        "replicas": 1,
        "readyReplicas": 1,
        "desiredReplicas": 2,
        "updatedReplicas": 1,
        "outdatedReplicas": 0,
        "selector": "slmpack.dev/name=x",
        "perGPU": 1,
        "share": "Exclusive",
        "gpu": "NVIDIA-L4",
        "reason": "InsufficientGpus",
        "maxModelLen": 2048,
        "footprint": {
            "weightsBytes": 2_630_000_000,
            "kvBytesPerToken": 196_608,
            "totalBytes": 2**40,
            "basis": "modelled",
        },
        "scaling": {
            "desired": 2,
            "wished": 3,
            "known": True,
            "reason": "Steady",
            "message": "12.3 requests/s arrive",
            "limitedBy": "AtMax",
            "power": "350 W (300 to 400)",
            "decidedAt": "2026-11-21T13:00:00Z",
            "lastScaleTime": "2026-11-21T12:00:00Z",
            "lastDirection": "Up",
            "lowerSince": "2026-11-21T12:59:00Z",
            "higherSince": "2026-11-21T12:59:30Z",
            "lastRequestTime": "2026-11-21T12:59:45Z",
            "startSeconds": 41.5,
            "figures": [{"name": "demand", "value": 12.3, "unit": "requests/s", "basis": "measured"}],
        },
        "placements": [{"pod": "a-0", "node": "n", "resource": "nvidia.com/gpu", "share": "Exclusive", "ready": True}],
        "unplaced": [{"count": 1, "reason": "InsufficientGpus", "message": "no L4 is free"}],
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "observedGeneration": 1,
                "lastTransitionTime": "2026-11-21T13:00:00Z",
                "reason": "InsufficientGpus",
                "message": "1 of 2 replicas are Ready",
            }
        ],
    }
    path = f"{API}/namespaces/{namespace}/slmdeployments/{obj['metadata']['name']}"
    current = cluster.request("GET", path)
    stored = cluster.request("PUT", f"{path}/status?fieldValidation=Strict", body=current | {"status": status})
    assert stored["status"] == status


def test_what_no_operator_has_seen_is_not_ready(cluster: ControlPlane) -> None:
    """The default of status is nobody's, is no difference to what was applied, and is stored with the next write."""
    namespace = cluster.new_namespace("unseen")
    obj = examples()["qwen2.5-1.5b.yaml"]
    name, text = obj["metadata"]["name"], yaml.safe_dump(obj)
    path = f"{API}/namespaces/{namespace}/slmdeployments/{name}"

    mine = ("--server-side", "--field-manager=git", "-n", namespace, "-f", "-")

    def apply() -> dict[str, Any]:
        cluster.kubectl("apply", *mine, input=text)
        found: dict[str, Any] = cluster.request("GET", path)
        return found

    first = apply()
    assert first["status"] == NOTHING_SAID
    (owner,) = first["metadata"]["managedFields"]
    assert (owner["manager"], set(owner["fieldsV1"])) == ("git", {"f:spec"})
    cluster.kubectl("diff", *mine, input=text)
    versions = [first, apply(), apply()]
    stamps = [obj["metadata"]["resourceVersion"] for obj in versions]
    assert stamps[0] != stamps[1] == stamps[2], "the default is stored once"
    assert {obj["metadata"]["generation"] for obj in versions} == {1}
    row = cluster.kubectl("get", "slm", "-n", namespace, "--no-headers").stdout.split()
    assert (row[0], len(row)) == (name, 2), "nothing but name and age"
    waiting = ("wait", f"slm/{name}", "-n", namespace, "--for=condition=Ready", "--timeout=1s")
    assert "timed out" in cluster.kubectl(*waiting, check=False).stderr
    status = {"observedGeneration": 1, "conditions": [_condition("Ready", generation=1)]}
    body = {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": {"name": name}, "status": status}
    operators = ("--server-side", "--subresource=status", "--field-manager=slmpack", "-n", namespace, "-f", "-")
    cluster.kubectl("apply", *operators, input=json.dumps(body))  # without --force-conflicts
    assert cluster.request("GET", path)["status"] == status
    assert "condition met" in cluster.kubectl(*waiting).stdout


def test_an_upgraded_crd_shows_the_default_on_what_was_there(cluster: ControlPlane) -> None:
    """A CRD of another group, so that nobody else's objects lose theirs meanwhile."""
    crd = build_crd()
    crd["metadata"]["name"] = "olds.before.slmpack.dev"
    crd["spec"] |= {"group": "before.slmpack.dev", "names": {"kind": "Old", "plural": "olds", "singular": "old"}}
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    default = schema.pop("default")
    namespace = cluster.new_namespace("upgrade")
    path = f"/apis/before.slmpack.dev/v1alpha1/namespaces/{namespace}/olds"
    old = copy.deepcopy(examples()["mig.yaml"]) | {"apiVersion": "before.slmpack.dev/v1alpha1", "kind": "Old"}
    new, seen = ({**old, "metadata": {"name": name}} for name in ("new", "seen"))
    try:
        cluster.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(crd))
        cluster.kubectl("wait", f"crd/{crd['metadata']['name']}", "--for=condition=Established", "--timeout=30s")
        _eventually(lambda: cluster.kubectl("get", "-n", namespace, "olds", check=False).returncode == 0)
        made = {obj["metadata"]["name"]: cluster.request("POST", path, body=obj) for obj in (new, seen)}
        assert all("status" not in obj for obj in made.values())
        told = {"observedGeneration": 1, "ready": "1/1"}
        cluster.request("PUT", f"{path}/seen/status", body=made["seen"] | {"status": told})
        schema["default"] = default
        cluster.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(crd))
        _eventually(lambda: cluster.request("GET", f"{path}/new").get("status") == NOTHING_SAID)
        found = {obj["metadata"]["name"]: obj for obj in cluster.request("GET", path)["items"]}
        assert {name: obj["status"] for name, obj in found.items()} == {"new": NOTHING_SAID, "seen": told}
        assert found["new"]["metadata"] == made["new"]["metadata"], "it was not written"
    finally:
        cluster.kubectl("delete", "crd", crd["metadata"]["name"], "--ignore-not-found", "--wait=false")


def _condition(kind: str, *, generation: int) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True",
        "observedGeneration": generation,
        "lastTransitionTime": "2026-11-21T13:00:00Z",
        "reason": "AllReady",
        "message": "the replica is Ready",
    }
