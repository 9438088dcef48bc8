"""`helm test`: the API server serves SLMDeployments to the operator's account, and the operator is ready.

It runs in the operator's image, by the standard library alone. Exit status 1 with what is wrong, else 0.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path(os.environ.get("ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
POLL_SECONDS = 1.0


def get(url: str, *, headers: dict[str, str] | None = None, tls: ssl.SSLContext | None = None) -> tuple[int, str]:
    """Status and body; status 0 and the error where nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=10, context=tls) as got:
            return got.status, got.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)


def served() -> str:
    """What is wrong with the API; empty if nothing is."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    url = f"https://{f'[{host}]' if ':' in host else host}:{port}{os.environ['SLMDEPLOYMENTS']}"
    bearer = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}"}
    status, body = get(url, headers=bearer, tls=ssl.create_default_context(cafile=ACCOUNT / "ca.crt"))
    if status == 200 and json.loads(body)["kind"] == "SLMDeploymentList":
        return ""
    return f"GET {url} answers {status}: {body.strip()[:500]}"


def ready() -> str:
    """Why the operator is not ready in time; empty if it is."""
    url, seconds = os.environ["READY_URL"], float(os.environ["READY_SECONDS"])
    deadline = time.monotonic() + seconds
    while True:
        status, body = get(url)
        if status == 200:
            return ""
        if time.monotonic() >= deadline:
            return f"not ready within {seconds:.0f} s: GET {url} answers {status}: {body.strip()[:500]}"
        time.sleep(POLL_SECONDS)


for name, check in (("SLMDeployments are served", served), ("the operator is ready", ready)):
    if wrong := check():
        sys.exit(f"FAILED: {name}: {wrong}")
    sys.stdout.write(f"ok: {name}\n")
