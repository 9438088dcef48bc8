"""Where the Hub does not answer, `plan --cluster` and `explain` say what they cannot tell, why, and what would help."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from slmpack.api.crd import build_crd
from slmpack.cli.hub_config import AsSeenFromHere
from slmpack.cli.manifests import read_manifests
from slmpack.cli.world import Question, observe_world
from slmpack.devcluster.cluster import EmbeddedCluster, system_clock
from slmpack.devcluster.kubelet import Kubelets
from slmpack.devcluster.nodes import mps_node
from slmpack.domain.plan import CreatePod
from slmpack.domain.planner import plan_cluster
from slmpack.domain.reasons import Reason
from slmpack.domain.snapshot import ModelUnknown
from slmpack.render.pod import render_pod
from tests.support.cli import a_cr, slmpack

SLM_PATH = "/apis/slmpack.dev/v1alpha1/namespaces/default/slmdeployments"
NOT_KNOWN = "warning: what pays, the knee and the batch are not known; memory is as replicas were started with"
OFFLINE = "slmpack is offline (HF_HUB_OFFLINE)"
HELPS = "--bundled-models takes the one that ships with slmpack"

Ask = Callable[..., Awaitable[str]]


@pytest.fixture
async def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ask]:
    """Commands against a cluster where a replica of one model runs, and one of a model nobody knows has no place."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    async with (
        EmbeddedCluster(crds=[build_crd()]) as embedded,
        Kubelets(embedded.api, nodes=[mps_node("h100", replicas=4)], clock=system_clock),
    ):
        kubeconfig = str(embedded.kubeconfig(tmp_path / "kubeconfig"))
        await embedded.api.create(SLM_PATH, a_cr(replicas=2))
        await embedded.api.create(SLM_PATH, a_cr("other", replicas=1, model={"source": "hf://nobody/nothing"}))
        question = Question(
            manifests=read_manifests(()), cluster=True, kubeconfig=kubeconfig, model_seconds=0, bundled_models=True
        )
        world = await observe_world(question)
        for action in plan_cluster(world.snapshot, world.policy).actions:
            if isinstance(action, CreatePod):
                pod = dict(render_pod(action, engines=world.policy.engines))
                await embedded.api.create("/api/v1/namespaces/default/pods", pod)

        async def said(*args: str) -> str:
            result = await asyncio.to_thread(slmpack, *args, "--kubeconfig", kubeconfig)
            assert result.exit_code in {0, 2}, result.output
            return " ".join(result.stdout.split())

        yield said


async def test_what_is_not_known_of_running_replicas_is_said(ask: Ask) -> None:
    for command in (("explain", "qwen"), ("plan", "--cluster")):
        text = await ask(*command)
        assert NOT_KNOWN in text
        assert text.count(f"hf://Qwen/Qwen2.5-1.5B-Instruct: {OFFLINE}; {HELPS}") == 1
        assert "4 fit on one GPU, how many pay is not known" in text
        assert "fit and pay" not in text
        assert "operator" not in text
        known = await ask(*command, "--bundled-models")
        assert NOT_KNOWN not in known
        assert "fit and pay on one GPU" in known
        assert "predicted for one GPU" in known


class Refusing:
    """A source that has nothing, for one reason."""

    def __init__(self, reason: Reason, message: str) -> None:
        self.unknown = ModelUnknown(reason=reason, message=message)

    def lookup(self, *, source: str, revision: str | None) -> ModelUnknown:
        assert source.startswith("hf://")
        assert revision in {None, "main", "v2"}
        return self.unknown


GATED = "hf://m is gated: the operator got 401; grant the access, or put its config into spec.model.config"
LLAMA = "hf://meta-llama/Llama-3.2-1B-Instruct"


@pytest.mark.parametrize(
    ("refusing", "source", "revision", "bundled", "said"),
    [
        (Refusing(Reason.MODEL_PENDING, "on its way"), LLAMA, None, False, f"config.json of {LLAMA} did not come within 3 s; {HELPS}"),
        (Refusing(Reason.MODEL_PENDING, "on its way"), "hf://a/b", "main", False, "config.json of hf://a/b did not come within 3 s; spec.model.config does without the Hub"),
        (Refusing(Reason.MODEL_UNAVAILABLE, "x: 503; it is tried again"), LLAMA, "v2", False, "x: 503; spec.model.config does without the Hub"),
        (Refusing(Reason.MODEL_UNAVAILABLE, "x: 503; it is tried again"), LLAMA, None, True, "x: 503; spec.model.config does without the Hub"),
        (Refusing(Reason.MODEL_GATED, GATED), LLAMA, None, False, f"{GATED.replace('the operator', 'slmpack')}; {HELPS}"),
        (Refusing(Reason.MODEL_GATED, GATED), "hf://a/b", None, False, GATED.replace("the operator", "slmpack")),
    ],
)  # fmt: skip
def test_what_would_help_is_said(refusing: Refusing, source: str, revision: str | None, bundled: bool, said: str) -> None:  # fmt: skip
    found = AsSeenFromHere(refusing, bundled=bundled, seconds=3).lookup(source=source, revision=revision)
    assert found == ModelUnknown(reason=refusing.unknown.reason, message=said)


async def test_why_a_replica_has_no_place_is_said_once(ask: Ask) -> None:
    for flags in ((), ("--bundled-models",)):
        text = await ask("explain", "other", *flags)
        assert text.count(f"{OFFLINE}; spec.model.config does without the Hub") == 1
        assert "--bundled-models" not in text
        assert "1 replica without a place: ModelUnavailable: as said above" in text
        assert "What would change it what is said under Where replicas are" in text
