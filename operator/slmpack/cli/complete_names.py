"""Names that a shell completes: GPUs, and what is in the cluster, where a prompt is no place to say why it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

__all__ = ["deployments", "gpus", "namespaces"]

SECONDS = 2.0
"""A shell that waits longer feels broken."""


def deployments(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """SLMDeployments of the namespace that the words before name, or of kubectl's."""
    from slmpack.adapters.connection import context_namespace
    from slmpack.adapters.resources import SLM_DEPLOYMENTS

    given = ctx.params

    def path() -> str:
        namespace = given.get("namespace") or context_namespace(given.get("kubeconfig"), given.get("context"))
        return SLM_DEPLOYMENTS.path(namespace=namespace)

    return _names(ctx, path, incomplete)


def namespaces(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Those of the cluster, for who may list them."""
    return _names(ctx, lambda: "/api/v1/namespaces", incomplete)


def gpus(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Ids of the catalogue."""
    from slmpack.adapters.tables import load_gpu_catalogue

    names = (gpu.id for gpu in load_gpu_catalogue().models)
    return [CompletionItem(name) for name in names if name.startswith(incomplete.lower())]


def _names(ctx: click.Context, path: Callable[[], str], incomplete: str) -> list[CompletionItem[str]]:
    logging.disable()  # libraries would write into the user's prompt
    try:
        found = asyncio.run(_list(path(), ctx.params.get("kubeconfig"), ctx.params.get("context")))
    except Exception:  # noqa: BLE001 - whatever it is, a prompt is no place for it
        return []
    finally:
        logging.disable(logging.NOTSET)
    return [CompletionItem(name) for name in sorted(found) if name.startswith(incomplete)]


async def _list(path: str, kubeconfig: str | None, context: str | None) -> list[str]:
    from slmpack.adapters.kube import KubeClient

    async with asyncio.timeout(SECONDS), await KubeClient.connect(kubeconfig, context=context) as client:
        items, _ = await client.list(path)
    return [str(item["metadata"]["name"]) for item in items]
