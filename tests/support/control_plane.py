"""A real Kubernetes control plane on loopback: etcd, API server with RBAC, controller manager and scheduler.

There is no kubelet: tests make Node objects, and a stand-in kubelet plays them.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tests.support.binaries import ensure_binaries
from tests.support.components import LOOPBACK, Credentials, Ports, commands, write_kubeconfig
from tests.support.go_programs import build_main
from tests.support.processes import ProcessFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.support.pki import KeyPair

__all__ = ["ApiError", "ControlPlane", "MutatingRequest", "StartError"]

START_SECONDS = 90.0
POLL_SECONDS = 0.05
MUTATING_VERBS = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})
REQUEST_TOTAL = re.compile(r"^apiserver_request_total\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


class StartError(Exception):
    """A component did not come up; the message holds the end of its log."""


class ApiError(Exception):
    """The API server answered with an error status."""

    def __init__(self, status: int, *, method: str, path: str, message: str) -> None:
        super().__init__(f"{method} {path}: {status}: {message}")
        self.status = status


class MutatingRequest(NamedTuple):
    """What the API server's own metrics tell writes apart by."""

    verb: str
    group: str
    resource: str
    subresource: str


class ControlPlane:
    """A running control plane; `with ControlPlane.start() as control_plane:` is the only way to one."""

    def __init__(self, binaries: Path, *, processes: ProcessFolder) -> None:
        self._binaries = binaries
        self._processes = processes
        self._ports = Ports.choose()
        self._numbers = itertools.count(1)
        self._commands: dict[str, list[str]] = {}
        self.admin_token = secrets.token_hex(16)
        self._credentials = Credentials.write(processes.path, admin_token=self.admin_token)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(self.ca_file))),
        )

    @classmethod
    @contextmanager
    def start(cls, *, say: Callable[[str], None] = print) -> Iterator[Self]:
        """Start everything (building it first where need be), and leave nothing behind.

        Raises BinariesError where the programs cannot be had and StartError where one of them does not come up.
        """
        binaries = ensure_binaries(say=say)
        processes = ProcessFolder(prefix="slmpack-control-plane-")
        try:
            control_plane = cls(binaries, processes=processes)
            control_plane._start_all()
            yield control_plane
        finally:
            processes.close()

    @property
    def url(self) -> str:
        """The API server's address."""
        return f"https://{LOOPBACK}:{self._ports.apiserver}"

    @property
    def ca_file(self) -> Path:
        """The authority that signed the API server's certificate."""
        return self._credentials.authority.certificate

    @property
    def server_pair(self) -> KeyPair:
        """A certificate for another server on loopback that clients of this control plane trust."""
        return self._credentials.server

    @property
    def folder(self) -> Path:
        """Logs, certificates and data; it is removed at the end."""
        return self._processes.path

    @property
    def pids(self) -> Mapping[str, int]:
        """The process ids by component."""
        return self._processes.pids

    def kubeconfig(self, token: str | None = None, *, user: str = "admin", server: str | None = None) -> Path:
        """Write a kubeconfig file for `token` (default: the admin's) at `server` (default: the API server)."""
        path = self.folder / f"kubeconfig-{next(self._numbers)}-{user.replace(':', '-').replace('/', '-')}"
        credentials = {"token": token or self.admin_token}
        write_kubeconfig(path, server=server or self.url, authority=self.ca_file, name=user, user=credentials)
        return path

    def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002 - as subprocess.run names it
        kubeconfig: Path | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl; with `check`, an exit status other than 0 raises RuntimeError with what it printed."""
        env = self._environment() | {"KUBECONFIG": str(kubeconfig or self.kubeconfig())}
        command = [str(self._binaries / "kubectl"), *args]
        done = subprocess.run(command, env=env, input=input, capture_output=True, text=True, timeout=120, check=False)
        if check and done.returncode:
            raise RuntimeError(f"kubectl {' '.join(args)}: exit status {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def request(self, method: str, path: str, *, body: Any = None, token: str | None = None) -> Any:
        """One JSON request, the admin's where no token is given. Raises ApiError."""
        return json.loads(self._request(method, path, body=body, token=token))

    def new_namespace(self, prefix: str = "test") -> str:
        """Make a namespace, wait until pods can be made in it, and return its name."""
        body = {"metadata": {"generateName": f"{prefix}-"}}
        name: str = self.request("POST", "/api/v1/namespaces", body=body)["metadata"]["name"]
        self._wait_default_account(name)
        return name

    def service_account_token(self, namespace: str, name: str, *, expiration_seconds: int = 3600) -> str:
        """A token of an existing service account, by TokenRequest."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        body = {"spec": {"expirationSeconds": expiration_seconds}}
        token: str = self.request("POST", path, body=body)["status"]["token"]
        return token

    def metrics(self) -> str:
        """The API server's own metrics."""
        return self._request("GET", "/metrics").decode()

    def mutating_requests(self) -> Counter[MutatingRequest]:
        """How many writes the API server has answered, refused ones included, dry runs not.

        The components' own writes are among them (tokens, Leases, status of nodes): diff two of these and pick. A restart of
        the API server starts from 0.
        """
        total: Counter[MutatingRequest] = Counter()
        for match in REQUEST_TOTAL.finditer(self.metrics()):
            labels = dict(LABEL.findall(match["labels"]))
            if labels["verb"] in MUTATING_VERBS and not labels["dry_run"]:
                request = MutatingRequest(labels["verb"], labels["group"], labels["resource"], labels["subresource"])
                total[request] += int(float(match["value"]))
        return total

    def restart_apiserver(self) -> None:
        """Kill the API server and start it anew on its port; what etcd holds stays."""
        self._processes.kill("kube-apiserver")
        self._start("kube-apiserver")
        self._wait("kube-apiserver", lambda: self._answers("/readyz"))

    def _start_all(self) -> None:
        self._commands = commands(self._binaries, folder=self.folder, ports=self._ports, credentials=self._credentials)
        self._start("etcd")
        self._wait("etcd", lambda: self._answers("/health", server=f"http://{LOOPBACK}:{self._ports.etcd_client}"))
        self._start("kube-apiserver")
        self._wait("kube-apiserver", lambda: self._answers("/readyz"))
        self._start("kube-controller-manager")
        self._start("kube-scheduler")
        self._wait_healthy("kube-controller-manager", port=self._ports.controller_manager)
        self._wait_healthy("kube-scheduler", port=self._ports.scheduler)
        self._wait_default_account("default")

    def _wait_healthy(self, name: str, *, port: int) -> None:
        self._wait(name, lambda: self._answers("/healthz", server=f"https://{LOOPBACK}:{port}"))

    def _wait_default_account(self, namespace: str) -> None:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        self._wait("kube-controller-manager", lambda: self._answers(path))

    def _start(self, name: str) -> None:
        self._processes.start(name, command=self._commands[name], env=self._environment())

    def _environment(self) -> dict[str, str]:
        home = str(self.folder)
        return {"PATH": os.environ.get("PATH", os.defpath), "HOME": home, "TMPDIR": home}

    def _wait(self, name: str, is_done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not is_done():
            if (obituary := self._processes.ended()) is not None:
                raise StartError(f"the control plane failed: {obituary}")
            if time.monotonic() > deadline:
                tail = self._processes.tail(name)
                raise StartError(f"the control plane failed: {name} not ready after {START_SECONDS:.0f} s:\n{tail}")
            time.sleep(POLL_SECONDS)

    def _answers(self, path: str, *, server: str | None = None) -> bool:
        try:
            self._request("GET", path, server=server)
        except (OSError, ApiError):
            return False
        return True

    def _request(
        self, method: str, path: str, *, body: Any = None, token: str | None = None, server: str | None = None
    ) -> bytes:
        headers = {"Content-Type": "application/json"}
        if server is None:
            headers["Authorization"] = f"Bearer {token or self.admin_token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request((server or self.url) + path, data=data, headers=headers, method=method)
        try:
            with self._opener.open(request, timeout=30) as response:
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            with error:
                message = error.read().decode(errors="replace")
            raise ApiError(error.code, method=method, path=path, message=message) from None


if __name__ == "__main__":
    sys.exit(build_main("control_plane", ensure_binaries))
