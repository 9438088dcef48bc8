"""ResourceClaimTemplates and how pods refer to them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from slmpack.domain.dra import claim_resource
from slmpack.domain.plan import CreatePod, Placement
from slmpack.domain.quantity import GIB
from slmpack.domain.sharing import DraClaim, Exclusive, MigSlice, MpsPack, MpsShare, Share
from slmpack.render.claims import container_claims, pod_claims, render_claim_template
from tests.support.builders import a_deployment, a_snapshot, creates, plan, whole_node

SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def a_create(share: Share, *, name: str = "qwen") -> CreatePod:
    (made,) = creates(plan(a_snapshot(deployments=(a_deployment(name),), nodes=(whole_node("n"),))))
    return replace(made, placement=Placement(node="n", share=share))


def a_claim(profile: str) -> DraClaim:
    return DraClaim(
        resource=claim_resource(profile), device_class="mig.nvidia.com", profile=profile, memory_bytes=9 * GIB
    )


def test_the_template_asks_for_one_device_of_the_class_and_profile() -> None:
    template = render_claim_template(a_create(a_claim("1g.10gb")))
    assert template is not None
    assert (template["apiVersion"], template["kind"]) == ("resource.k8s.io/v1", "ResourceClaimTemplate")
    meta = template["metadata"]
    assert meta["namespace"] == "llm"
    assert [owner["uid"] for owner in meta["ownerReferences"]] == ["uid-llm-qwen"]
    expression = "device.attributes['gpu.nvidia.com'].profile == '1g.10gb'"
    (request,) = template["spec"]["spec"]["devices"]["requests"]
    assert request == {
        "name": "slice",
        "exactly": {
            "deviceClassName": "mig.nvidia.com",
            "allocationMode": "ExactCount",
            "count": 1,
            "selectors": [{"cel": {"expression": expression}}],
        },
    }


def test_a_device_that_is_known_by_its_size_is_asked_for_by_it() -> None:
    template = render_claim_template(a_create(a_claim("9984Mi")))
    assert template is not None
    (selector,) = template["spec"]["spec"]["devices"]["requests"][0]["exactly"]["selectors"]
    expression = "device.capacity['gpu.nvidia.com'].memory.compareTo(quantity('9984Mi')) == 0"
    assert selector == {"cel": {"expression": expression}}


def test_the_pod_refers_to_the_template_and_its_container_to_the_claim() -> None:
    create = a_create(a_claim("1g.10gb"))
    template = render_claim_template(create)
    assert template is not None
    (claim,) = pod_claims(create)
    assert claim["resourceClaimTemplateName"] == template["metadata"]["name"]
    assert container_claims(create) == [{"name": claim["name"]}]


@pytest.mark.parametrize("profile", ["1g.10gb", "1g.10gb+me", "7g.141gb", "9984Mi"])
def test_names_are_valid_and_one_for_each_profile(profile: str) -> None:
    name = pod_claims(a_create(a_claim(profile), name="a" * 50))[0]["resourceClaimTemplateName"]
    assert SUBDOMAIN.fullmatch(name)
    assert len(name) <= 253
    assert name == pod_claims(a_create(a_claim(profile), name="a" * 50))[0]["resourceClaimTemplateName"]
    assert name != pod_claims(a_create(a_claim("2g.20gb"), name="a" * 50))[0]["resourceClaimTemplateName"]


def test_another_class_has_another_name_as_a_template_cannot_change() -> None:
    other = replace(a_claim("1g.10gb"), device_class="ours.example.com")
    assert pod_claims(a_create(a_claim("1g.10gb"))) != pod_claims(a_create(other))


OTHERS: tuple[Share, ...] = (
    Exclusive(resource="nvidia.com/gpu", memory_bytes=GIB),
    MigSlice(resource="nvidia.com/mig-1g.10gb", profile="1g.10gb", memory_bytes=GIB),
    MpsShare(
        resource="nvidia.com/gpu", replicas=2, gpu_memory_bytes=GIB, limit_bytes=GIB // 2, active_thread_percentage=50
    ),
    MpsPack(resource="nvidia.com/gpu", gpu_memory_bytes=GIB, limits_bytes=(GIB // 2,)),
)


@pytest.mark.parametrize("share", OTHERS, ids=lambda share: type(share).__name__)
def test_no_other_share_has_a_claim(share: Share) -> None:
    create = a_create(share)
    assert render_claim_template(create) is None
    assert pod_claims(create) == []
    assert container_claims(create) == []
