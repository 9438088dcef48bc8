"""The command lines, certificates and kubeconfigs of the control plane's components."""

from __future__ import annotations

import base64
import json
import random
import socket
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from tests.support.pki import Authority, KeyPair, write_key_pair

__all__ = ["LOOPBACK", "Credentials", "Ports", "commands", "free_ports", "write_kubeconfig"]

LOOPBACK = "127.0.0.1"
SERVICE_RANGE = "10.96.0.0/16"
BELOW_EPHEMERAL = range(15_000, 32_000)
"""Linux hands out 32768 and up to outgoing connections: a port below stays free between the choice and its use."""
CLIENT_RATE = ("--kube-api-qps=500", "--kube-api-burst=1000")
"""The default of 20 requests a second is what makes test clusters slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """A loopback port for each server."""

    etcd_client: int
    etcd_peer: int
    apiserver: int
    controller_manager: int
    scheduler: int

    @classmethod
    def choose(cls) -> Self:
        """Different ports on which nothing listens now."""
        names = [field.name for field in fields(cls)]
        return cls(**dict(zip(names, free_ports(len(names)), strict=True)))


def free_ports(count: int) -> list[int]:
    """Different loopback ports on which nothing listens now. OSError if there are not so many."""
    chosen: list[int] = []
    for port in random.sample(BELOW_EPHEMERAL, k=len(BELOW_EPHEMERAL)):
        if len(chosen) == count:
            return chosen
        if _is_free(port):
            chosen.append(port)
    raise OSError(f"no {count} free ports from {BELOW_EPHEMERAL.start} to {BELOW_EPHEMERAL.stop} on {LOOPBACK}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the components authenticate with."""

    authority: KeyPair
    server: KeyPair
    kubelet_client: KeyPair
    controller_manager: KeyPair
    scheduler: KeyPair
    service_accounts: KeyPair
    front_authority: KeyPair
    front_client: KeyPair
    tokens: Path

    @classmethod
    def write(cls, folder: Path, *, admin_token: str) -> Self:
        """Make and write all of it into `folder`."""
        authority = Authority(folder, name="slmpack-test")
        front = Authority(folder, name="front-proxy")
        tokens = folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f'{admin_token},admin,admin,"system:masters"\n')
        return cls(
            authority=authority.pair,
            server=authority.issue_server("server"),
            kubelet_client=authority.issue_client("kube-apiserver-kubelet-client", organisation="system:masters"),
            controller_manager=authority.issue_client("system:kube-controller-manager"),
            scheduler=authority.issue_client("system:kube-scheduler"),
            service_accounts=write_key_pair(folder, name="service-accounts"),
            front_authority=front.pair,
            front_client=front.issue_client("front-proxy-client"),
            tokens=tokens,
        )


def commands(binaries: Path, *, folder: Path, ports: Ports, credentials: Credentials) -> dict[str, list[str]]:
    """The components' command lines by name, in the order to start them; writes their kubeconfigs."""
    server = f"https://{LOOPBACK}:{ports.apiserver}"
    authority = credentials.authority.certificate
    kubeconfigs = {}
    for name, pair in (
        ("kube-controller-manager", credentials.controller_manager),
        ("kube-scheduler", credentials.scheduler),
    ):
        kubeconfigs[name] = folder / f"{name}.kubeconfig"
        user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
        write_kubeconfig(kubeconfigs[name], server=server, authority=authority, name=name, user=user)
    return {
        "etcd": [str(binaries / "etcd"), *_etcd_flags(folder, ports)],
        "kube-apiserver": [str(binaries / "kube-apiserver"), *_apiserver_flags(ports, credentials)],
        "kube-controller-manager": [
            str(binaries / "kube-controller-manager"),
            f"--kubeconfig={kubeconfigs['kube-controller-manager']}",
            *_serving_flags(ports.controller_manager, credentials),
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={credentials.service_accounts.key}",
            f"--root-ca-file={authority}",
            f"--cluster-signing-cert-file={authority}",
            f"--cluster-signing-key-file={credentials.authority.key}",
            *CLIENT_RATE,
        ],
        "kube-scheduler": [
            str(binaries / "kube-scheduler"),
            f"--kubeconfig={kubeconfigs['kube-scheduler']}",
            *_serving_flags(ports.scheduler, credentials),
            "--leader-elect=false",
            *CLIENT_RATE,
        ],
    }


def _etcd_flags(folder: Path, ports: Ports) -> list[str]:
    client, peer = (f"http://{LOOPBACK}:{port}" for port in (ports.etcd_client, ports.etcd_peer))
    return [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # the data does not outlive the test run
        "--log-level=warn",
    ]


def _apiserver_flags(ports: Ports, credentials: Credentials) -> list[str]:
    return [
        f"--advertise-address={LOOPBACK}",
        "--endpoint-reconciler-type=none",  # the default would publish the advertised address; loopback is refused
        f"--etcd-servers=http://{LOOPBACK}:{ports.etcd_client}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--authorization-mode=Node,RBAC",
        f"--client-ca-file={credentials.authority.certificate}",
        f"--token-auth-file={credentials.tokens}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={credentials.service_accounts.certificate}",
        f"--service-account-signing-key-file={credentials.service_accounts.key}",
        f"--requestheader-client-ca-file={credentials.front_authority.certificate}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={credentials.front_client.certificate}",
        f"--proxy-client-key-file={credentials.front_client.key}",
        f"--kubelet-client-certificate={credentials.kubelet_client.certificate}",
        f"--kubelet-client-key={credentials.kubelet_client.key}",
        "--kubelet-preferred-address-types=InternalIP",
        *_serving_flags(ports.apiserver, credentials),
    ]


def _serving_flags(port: int, credentials: Credentials) -> tuple[str, ...]:
    return (
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        f"--tls-cert-file={credentials.server.certificate}",
        f"--tls-private-key-file={credentials.server.key}",
    )


def write_kubeconfig(path: Path, *, server: str, authority: Path, name: str, user: dict[str, Any]) -> None:
    """Write a kubeconfig of one context; JSON is YAML. The authority is left out where `server` is plain HTTP."""
    cluster = {"server": server}
    if server.startswith("https:"):
        cluster["certificate-authority-data"] = base64.b64encode(authority.read_bytes()).decode()
    path.touch(mode=0o600)
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": name,
                "contexts": [{"name": name, "context": {"cluster": "slmpack-test", "user": name}}],
                "clusters": [{"name": "slmpack-test", "cluster": cluster}],
                "users": [{"name": name, "user": user}],
            },
            indent=2,
        )
    )
