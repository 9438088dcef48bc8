"""Which API server to talk to, and as whom: read by the official client from a kubeconfig or the pod's account."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import yaml
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import (
    ConfigException,
    list_kube_config_contexts,
    load_incluster_config,
    load_kube_config,
)

from slmpack.adapters.service_account import pod_namespace
from slmpack.ports import Unavailable

__all__ = ["Connection", "context_namespace", "load_connection"]

POOL_SIZE = 64
BROKEN = (yaml.YAMLError, TypeError, AttributeError, KeyError, ValueError)
"""What the official client raises, unasked, on a file that is no kubeconfig."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A loaded configuration of the official client, plus what another client needs to log in the same way."""

    configuration: Any
    """kubernetes.aio.client.configuration.Configuration"""

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self.configuration.host)

    async def authorization(self) -> tuple[str | None, str | None]:
        """Scheme and token of the Authorization header, refreshed where the source allows; (None, None) without."""
        header = await self.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if not header:
            return None, None
        scheme, _, token = str(header).strip().partition(" ")
        return (scheme, token) if token else ("Bearer", scheme)


async def load_connection(
    *, kubeconfig: str | None = None, context: str | None = None, server: str | None = None
) -> Connection:
    """Read the configuration: the file given, else as kubectl does ($KUBECONFIG, ~/.kube/config, the pod's account).

    `server` overrides the address; with nothing else to be found, it is used without credentials.
    Raises Unavailable and says what was looked for.
    """
    configuration = Configuration()
    configuration.connection_pool_maxsize = POOL_SIZE
    try:
        await _load(configuration, kubeconfig=kubeconfig, context=context)
    except BROKEN as error:
        raise _broken(kubeconfig, error) from error
    except (ConfigException, OSError) as error:
        if server is None or kubeconfig is not None:
            source = kubeconfig or "$KUBECONFIG, ~/.kube/config or a service account"
            raise Unavailable(f"no cluster configuration from {source}: {error}") from error
    if server is not None:
        configuration.host = server.rstrip("/")
    return Connection(configuration=configuration)


async def _load(configuration: object, *, kubeconfig: str | None, context: str | None) -> None:
    _hush()
    try:
        await load_kube_config(
            config_file=kubeconfig, context=context, client_configuration=configuration, persist_config=False
        )
    except ConfigException:
        if kubeconfig is not None or context is not None:
            raise
        load_incluster_config(client_configuration=configuration)


def context_namespace(kubeconfig: str | None = None, context: str | None = None) -> str:
    """The namespace that kubectl would use: the context's, else the pod's own, else `default`.

    Raises Unavailable where there is a kubeconfig that is none.
    """
    try:
        namespace = _namespace(kubeconfig, context)
    except BROKEN as error:
        raise _broken(kubeconfig, error) from error
    return namespace or pod_namespace() or "default"


def _namespace(kubeconfig: str | None, context: str | None) -> str | None:
    """The context's; None where there is no such context."""
    _hush()
    try:
        contexts, current = list_kube_config_contexts(kubeconfig)
    except (ConfigException, OSError):
        return None
    chosen = current if context is None else next((it for it in contexts if it["name"] == context), None)
    return None if chosen is None else str(chosen["context"].get("namespace") or "default")


def _hush() -> None:
    """The client warns where there is no kubeconfig, as in every pod; what matters of that is in our own error."""
    logging.getLogger("kubernetes.aio.config.kube_config").setLevel(logging.ERROR)


def _broken(kubeconfig: str | None, error: Exception) -> Unavailable:
    file = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    why = " ".join(str(error).split())
    return Unavailable(
        f"{file} is no kubeconfig ({type(error).__name__}: {why}); give one that `kubectl config view` can read and"
        " that names a cluster's server"
    )
