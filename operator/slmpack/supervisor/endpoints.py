"""Each engine as an endpoint of the Service: the one writer of `endpoints` in the pod's EndpointSlices."""

from __future__ import annotations

import enum
import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from slmpack.supervisor.config import Place

__all__ = ["Endpoint", "EndpointError", "SliceClient", "SliceMissing"]

REQUEST_SECONDS = 5.0
MOST_BYTES = 1 << 20


class EndpointError(Exception):
    """The API server did not take it, or cannot be reached."""


class SliceMissing(EndpointError):
    """The operator has not made it yet, so it publishes nothing."""


class Endpoint(enum.Enum):
    """What the Service may know of an engine."""

    NONE = "none"
    READY = "ready"
    WITHDRAWN = "withdrawn"
    """It still serves, to be used only where nothing else is ready."""
    DRAINING = "draining"
    """It takes no new requests."""


class SliceClient:
    """Blocking GET and PATCH of one slice; for a thread."""

    def __init__(self, place: Place) -> None:
        self._place = place
        host = f"[{place.api_host}]" if ":" in place.api_host else place.api_host
        self._base = f"https://{host}:{place.api_port}/apis/discovery.k8s.io/v1/namespaces/{place.namespace}"

    def set(self, name: str, endpoint: Endpoint) -> None:
        """Make the slice say so, if it does not yet. EndpointError."""
        wanted = _endpoints_of(endpoint, place=self._place)
        if (self._send("GET", name, None).get("endpoints") or []) != wanted:
            self._send("PATCH", name, {"endpoints": wanted})

    def _send(self, method: str, name: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            # The token is renewed under us: read it each time.
            token = (self._place.account / "token").read_text().strip()
            request = urllib.request.Request(  # noqa: S310 - the base is https
                f"{self._base}/endpointslices/{name}",
                method=method,
                data=None if body is None else json.dumps(body).encode(),
                headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            )
            if body is not None:
                request.add_header("Content-Type", "application/merge-patch+json")
            context = ssl.create_default_context(cafile=str(self._place.account / "ca.crt"))
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
            )
            with opener.open(request, timeout=REQUEST_SECONDS) as response:
                answer = json.loads(response.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                kind = SliceMissing if error.code == 404 else EndpointError
                raise kind(f"{method} EndpointSlice {name}: {_why(error)}") from None
        except (OSError, ValueError) as error:
            raise EndpointError(f"{method} EndpointSlice {name}: {error}") from None
        if not isinstance(answer, dict):
            raise EndpointError(f"{method} EndpointSlice {name}: the answer is no object")
        return answer


def _endpoints_of(endpoint: Endpoint, *, place: Place) -> list[dict[str, Any]]:
    """The slice's field `endpoints`."""
    if endpoint is Endpoint.NONE:
        return []
    pod = {"kind": "Pod", "name": place.pod_name, "namespace": place.namespace, "uid": place.pod_uid}
    conditions = {
        "ready": endpoint is Endpoint.READY,
        "serving": endpoint is not Endpoint.DRAINING,
        "terminating": endpoint is not Endpoint.READY,
    }
    return [{"addresses": [place.pod_ip], "conditions": conditions, "nodeName": place.node, "targetRef": pod}]


def _why(error: urllib.error.HTTPError) -> str:
    if error.code == 404:
        return "404, not made yet"
    try:
        message = json.loads(error.read(MOST_BYTES)).get("message", "")
    except (OSError, ValueError, AttributeError):
        message = ""
    return f"{error.code} {message or error.reason}"[:300]
