from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmpack.domain.engine import DEFAULT_IMAGE, EngineVersion
from slmpack.domain.pack import CONTROL_PORT
from slmpack.render.engine_args import PORT
from slmpack.render.names import slice_name
from slmpack.render.pack import PROGRAM, engine_port
from slmpack.render.pod import render_pod
from slmpack.render.service import render_service
from slmpack.supervisor.config import Pack, parse_pack
from slmpack.supervisor.install import NAME
from tests.support.render_cases import (
    ENGINES,
    EXCLUSIVE,
    PACK,
    PACK_KNOBS,
    PACKS,
    SPEC,
    SUPERVISOR,
    TOKEN_HASH,
    a_pack,
    render,
)

if TYPE_CHECKING:
    from slmpack.domain.plan import CreatePod

GIB = 1024**3
EACH = pytest.mark.parametrize("create", PACKS.values(), ids=PACKS)
FIELDS = {
    "POD_NAME": "metadata.name",
    "POD_NAMESPACE": "metadata.namespace",
    "POD_UID": "metadata.uid",
    "POD_IP": "status.podIP",
    "NODE_NAME": "spec.nodeName",
}


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    (only,) = manifest["spec"]["containers"]
    return only  # type: ignore[no-any-return]


def as_the_kubelet(text: str) -> str:
    """Command, args and variables as the process sees them; no variable is referred to, so none may be replaced."""
    return re.sub(r"\$\$|\$\([^)]*\)", lambda found: "$" if found[0] == "$$" else "REPLACED", text)


def supervised(manifest: dict[str, Any]) -> Pack:
    """What the supervisor reads, by its own strict reader."""
    env = {variable["name"]: variable for variable in container(manifest)["env"]}
    assert len(env) == len(container(manifest)["env"])
    return parse_pack(as_the_kubelet(env["SLMPACK_PACK"]["value"]))


@EACH
def test_the_supervisor_understands_it(create: CreatePod) -> None:
    pack = supervised(render(create))
    assert [engine.limit_bytes for engine in pack.engines] == list(PACK.limits_bytes)
    assert [engine.port for engine in pack.engines] == [8000, 8001, 8002]
    assert [engine.sm_percent for engine in pack.engines] == [None] * 3
    assert [engine.slice for engine in pack.engines] == [f"{create.name}-e{index}" for index in range(3)]
    assert create.record.pack is not None
    assert pack.running == set(create.record.pack.running)
    assert pack.control_port == CONTROL_PORT
    assert pack.token_sha256 == TOKEN_HASH
    assert pack.timing.start == create.demand.startup_budget.total_seconds()


@EACH
def test_an_engine_s_command_is_that_of_a_pod_of_its_own_but_for_the_port(create: CreatePod) -> None:
    alone = replace(create, placement=replace(create.placement, share=EXCLUSIVE))
    pod = container(render_pod(alone, engines=ENGINES))
    pack = supervised(render(create))
    assert list(pack.command) == pod["command"]
    for engine in pack.engines:
        words = [as_the_kubelet(word) for word in pod["args"]]
        assert list(engine.args) == [f"--port={engine.port}" if word == "--port=8000" else word for word in words]


@pytest.mark.parametrize(("limit", "mebibytes"), [(24 * GIB, 24576), (24 * GIB - 1, 24575)])
def test_a_limit_is_whole_mebibytes_and_never_above_the_share(limit: int, mebibytes: int) -> None:
    share = replace(PACK, limits_bytes=(limit,))
    (engine,) = supervised(render(a_pack(share=share, running=(0,)))).engines
    assert engine.limit_mib == mebibytes


def test_a_start_is_given_whole_seconds_and_no_fewer() -> None:
    create = a_pack(startup_budget=timedelta(seconds=600.5))
    assert supervised(render(create)).timing.start == 601


GRACE = st.integers(min_value=1, max_value=3600)
VERSIONS = st.sampled_from([EngineVersion(0, 11), EngineVersion(0, 33)])


@given(grace=GRACE, version=VERSIONS)
def test_the_grace_period_holds_all_that_the_supervisor_does(grace: int, version: EngineVersion) -> None:
    template = {**SPEC, "pod": {"terminationGracePeriodSeconds": grace}}
    manifest = render(a_pack(template=template, engine_version=version))
    assert manifest["spec"]["terminationGracePeriodSeconds"] == grace
    pack = supervised(manifest)
    spent = pack.timing.endpoint + pack.timing.drain + pack.timing.exit
    assert grace - 3 <= spent <= grace
    assert spent < grace or grace < 9
    waits = [word for word in pack.engines[0].args if word.startswith("--shutdown-timeout=")]
    assert waits == ([f"--shutdown-timeout={pack.timing.drain:g}"] if version.minor > 11 else [])


@pytest.mark.parametrize(("name", "times"), [("pack", (10, 35, 12)), ("pack-old-engine", (45, 0, 12))])
def test_an_engine_that_cannot_wait_drains_before_sigterm(name: str, times: tuple[int, int, int]) -> None:
    timing = supervised(render(PACKS[name])).timing
    assert (timing.endpoint, timing.drain, timing.exit) == times


@EACH
def test_a_service_never_takes_the_pod_for_one_endpoint(create: CreatePod) -> None:
    (port,) = render_service(create.deployment, create.demand)["spec"]["ports"]
    named = {port["name"]: port["containerPort"] for port in container(render(create))["ports"]}
    assert port["targetPort"] not in named
    assert named == {"engine-0": 8000, "engine-1": 8001, "engine-2": 8002, "control": 8090}


def test_ports_stay_apart_up_to_the_most_engines_of_a_gpu() -> None:
    assert CONTROL_PORT not in {engine_port(index) for index in range(64)}
    assert engine_port(0) == PORT


@EACH
def test_it_is_watched_through_the_supervisor(create: CreatePod) -> None:
    found = container(render(create))
    assert found["startupProbe"]["httpGet"] == found["readinessProbe"]["httpGet"]
    assert found["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "control"}
    assert found["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "control"}
    probe = found["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] >= 2 * create.demand.startup_budget.total_seconds()
    assert "lifecycle" not in found
    assert "args" not in found


def test_nothing_replaces_what_the_supervisor_reads() -> None:
    theirs = [{"name": name, "value": "mine"} for name in (*FIELDS, "SLMPACK_PACK", "MINE")]
    manifest = render(a_pack(template={**SPEC, "pod": {"env": theirs}}))
    env = {variable["name"]: variable for variable in container(manifest)["env"]}
    assert {name: env[name]["valueFrom"]["fieldRef"]["fieldPath"] for name in FIELDS} == FIELDS
    assert env["MINE"] == {"name": "MINE", "value": "mine"}
    assert supervised(manifest).control_port == CONTROL_PORT
    assert not {"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_VISIBLE_DEVICES"} & env.keys()


def test_every_engine_has_its_part_of_the_host() -> None:
    wanted = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2.5", "memory": "16Gi"}}
    create = a_pack(template={**SPEC, "pod": {"resources": wanted}}, cpu_millicores=2000, memory_bytes=4 * GIB)
    manifest = render(create)
    assert container(manifest)["resources"] == {
        "requests": {"cpu": "6000m", "memory": str(12 * GIB), "nvidia.com/gpu": "1"},
        "limits": {"cpu": "7500m", "memory": str(48 * GIB), "nvidia.com/gpu": "1"},
    }
    (shm,) = (one["emptyDir"] for one in manifest["spec"]["volumes"] if one["name"] == "slmpack-shm")
    assert shm == {"medium": "Memory", "sizeLimit": str(3 * GIB)}


def test_cores_of_its_own_stay_possible() -> None:
    """QoS Guaranteed, which the static CPU manager asks for, needs limits equal to requests in every container."""
    same = {"cpu": "2", "memory": "8Gi"}
    template = {**SPEC, "pod": {"resources": {"requests": same, "limits": same}}}
    spec = render(a_pack(template=template, cpu_millicores=2000, memory_bytes=8 * GIB))["spec"]
    for one in (*spec["initContainers"], *spec["containers"]):
        limits, requests = one["resources"]["limits"], one["resources"]["requests"]
        assert limits.keys() == requests.keys()
        assert {"cpu", "memory"} <= limits.keys()
    assert spec["containers"][0]["resources"]["requests"]["cpu"] == "6000m"
    assert spec["containers"][0]["resources"]["limits"]["cpu"] == "6000m"


@EACH
def test_no_mount_lies_in_a_read_only_one(create: CreatePod) -> None:
    """A container runtime could not make the folder to mount it on."""
    mounts = container(render(create))["volumeMounts"]
    closed = [mount["mountPath"] for mount in mounts if mount.get("readOnly")]
    assert closed
    assert [one["mountPath"] for one in mounts for path in closed if one["mountPath"].startswith(f"{path}/")] == []


@EACH
def test_every_mount_has_its_volume(create: CreatePod) -> None:
    spec = render(create)["spec"]
    mounts = [mount for one in (*spec.get("initContainers", []), *spec["containers"]) for mount in one["volumeMounts"]]
    volumes = [volume["name"] for volume in spec["volumes"]]
    assert {mount["name"] for mount in mounts} == set(volumes)
    assert len(volumes) == len(set(volumes))


def test_the_program_comes_by_the_init_container() -> None:
    spec = render(PACKS["pack"])["spec"]
    (install,) = spec["initContainers"]
    assert install["image"] == SUPERVISOR
    (written,) = install["volumeMounts"]
    assert install["command"] == ["python3", "-m", "slmpack.supervisor.install", written["mountPath"]]
    (read,) = (one for one in spec["containers"][0]["volumeMounts"] if one["name"] == written["name"])
    assert read == {"name": written["name"], "mountPath": PROGRAM, "subPath": NAME, "readOnly": True}
    assert f"{written['mountPath']}/{NAME}" == PROGRAM
    assert spec["containers"][0]["command"] == ["python3", "-I", PROGRAM]


def test_an_image_with_the_program_needs_no_init_container() -> None:
    spec = render(PACKS["pack-with-the-program-in-its-image"])["spec"]
    assert "initContainers" not in spec
    assert "slmpack-supervisor" not in {volume["name"] for volume in spec["volumes"]}
    assert spec["containers"][0]["command"] == ["python3", "-I", PROGRAM]


def test_the_image_lays_the_program_where_the_pod_starts_it() -> None:
    file = (Path(__file__).parents[3] / "images" / "pack" / "Dockerfile").read_text(encoding="utf-8")
    assert f"slmpack.supervisor.install {PROGRAM.rpartition('/')[0]}\n" in file
    assert f"ARG VLLM_IMAGE={DEFAULT_IMAGE}\n" in file


@pytest.mark.parametrize(("template", "account"), [(SPEC, "chat-pack"), (PACK_KNOBS, "chat")])
def test_the_account(template: dict[str, Any], account: str) -> None:
    spec = render(a_pack(template=template))["spec"]
    assert spec["serviceAccountName"] == account
    assert spec["automountServiceAccountToken"] is False
    (volume,) = (one["projected"] for one in spec["volumes"] if "projected" in one)
    token = volume["sources"][0]["serviceAccountToken"]
    assert 600 <= token["expirationSeconds"] <= 3600
    assert "audience" not in token  # the API server's own


def test_an_ordinary_pod_has_no_account_of_ours() -> None:
    create = a_pack()
    alone = replace(create, placement=replace(create.placement, share=EXCLUSIVE))
    assert "serviceAccountName" not in render(alone)["spec"]


@pytest.mark.parametrize("image", [None, ""])
def test_no_pack_without_the_supervisor_s_image(image: str | None) -> None:
    with pytest.raises(ValueError, match=r"supervisor_image is not set.*--supervisor-image"):
        render(a_pack(), supervisor_image=image)


@pytest.mark.parametrize("token_hash", ["", TOKEN_HASH[1:], TOKEN_HASH.upper(), f"{TOKEN_HASH}\n"])
def test_no_pack_that_anybody_could_command(token_hash: str) -> None:
    with pytest.raises(ValueError, match=r"token_hash is .*64 lower-case"):
        render_pod(a_pack(), engines=ENGINES, supervisor_image=SUPERVISOR, token_hash=token_hash)


def test_no_pack_without_a_record_of_all_its_engines() -> None:
    create = a_pack()
    with pytest.raises(ValueError, match=r"record\.pack is None"):
        render(replace(create, record=replace(create.record, pack=None)))
    other = replace(create.placement, share=replace(PACK, limits_bytes=PACK.limits_bytes[:2]))
    with pytest.raises(ValueError, match="must be of 2 engines"):
        render(replace(create, placement=other))


@given(
    name=st.from_regex(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?", fullmatch=True),
    limits=st.lists(st.integers(min_value=2**20, max_value=2**38), min_size=1, max_size=60),
    data=st.data(),
)
def test_any_pack(name: str, limits: list[int], data: st.DataObject) -> None:
    running = data.draw(st.sets(st.integers(min_value=0, max_value=len(limits) - 1)).map(lambda it: tuple(sorted(it))))
    share = replace(PACK, limits_bytes=tuple(limits))
    create = a_pack(share=share, running=running, name=name, ordinal=10_000)
    manifest = render(create)
    assert manifest == render(create)
    pack = supervised(manifest)
    assert [engine.limit_mib for engine in pack.engines] == [limit // 2**20 for limit in limits]
    assert pack.running == set(running)
    assert all(len(port["name"]) <= 15 for port in container(manifest)["ports"])
    assert len(slice_name(create.name, engine=59)) <= 63
