"""A small SLMDeployment CRD and objects for the embedded cluster's own tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

Json = dict[str, Any]
Found = TypeVar("Found")

CRD: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "slmdeployments.slmpack.dev"},
    "spec": {
        "group": "slmpack.dev",
        "scope": "Namespaced",
        "names": {
            "plural": "slmdeployments",
            "singular": "slmdeployment",
            "kind": "SLMDeployment",
            "shortNames": ["slm"],
        },
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "description": "What to serve.",
                                "properties": {"replicas": {"type": "integer", "description": "How many."}},
                            },
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.replicas",
                        "statusReplicasPath": ".status.replicas",
                        "labelSelectorPath": ".status.selector",
                    },
                },
                "additionalPrinterColumns": [
                    {"name": "Ready", "type": "string", "jsonPath": ".status.ready"},
                    {
                        "name": "Reason",
                        "type": "string",
                        "jsonPath": '.status.conditions[?(@.type=="Ready")].reason',
                    },
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
            }
        ],
    },
}
SLM_PATH = "/apis/slmpack.dev/v1alpha1/namespaces/default/slmdeployments"
PODS = "/api/v1/namespaces/default/pods"


def problems(obj: Json) -> list[str]:
    model = obj["spec"].get("model")
    return [] if model else ["spec.model: Required value: name a model, such as hf://Qwen/Qwen2.5-1.5B-Instruct"]


def slm(name: str = "qwen", **spec: Any) -> Json:
    body = {"model": {"source": "hf://Qwen/Qwen2.5-1.5B-Instruct"}} | spec
    return {"apiVersion": "slmpack.dev/v1alpha1", "kind": "SLMDeployment", "metadata": {"name": name}, "spec": body}


async def eventually(look: Callable[[], Awaitable[Found | None]], *, seconds: float = 10) -> Found:
    """The first answer that is not None or False; TimeoutError if there is none in time."""
    async with asyncio.timeout(seconds):
        while True:
            found = await look()
            if found:
                return found
            await asyncio.sleep(0.005)
