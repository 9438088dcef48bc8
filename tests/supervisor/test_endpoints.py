"""EndpointSlices: late ones, an API server that is away, drift, a renewed token."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.support.pack_fakes.bench import PackBench


def test_slices_that_come_late_drift_and_an_api_server_that_is_away(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(engines=1)
    path = bench.folder / "slices" / "models" / "pack-e0.json"
    path.unlink()
    bench.start()
    bench.until_ready(0)
    bench.until(lambda: "404, not made yet" in bench.report()["endpointsMessage"], what="missing slice said")
    bench.make_slice(0)
    bench.until(lambda: bench.endpoints(0), what="published")
    assert bench.endpoints(0) == [
        {
            "addresses": ["10.1.2.3"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": "node-1",
            "targetRef": {"kind": "Pod", "name": "pack", "namespace": "models", "uid": "0000-pod"},
        }
    ]
    bench.until(lambda: bench.report()["endpointsMessage"] == "", what="no error left")
    # Somebody else writes.
    path.write_text(json.dumps(json.loads(path.read_text()) | {"endpoints": []}))
    bench.until(lambda: bench.endpoints(0), what="drift repaired")
    # The kubelet renews the token; the old one is refused from now on.
    bench.touch("api.token", "a new token")
    bench.until(lambda: "401" in bench.report()["endpointsMessage"], what="refused")
    bench.touch("account/token", "a new token")
    bench.until(lambda: bench.report()["endpointsMessage"] == "", what="new token used")
    # Without the API server the engine goes on, and a stop is not held up for ever.
    bench.touch("api.down")
    bench.until(lambda: "503" in bench.report()["endpointsMessage"], what="error said")
    assert bench.engine(0)["ready"]
    bench.supervisor.terminate()
    assert bench.wait_exit() == 0
    bench.until_nothing_left()
    assert "could not be withdrawn in time" in bench.text()


def test_no_write_where_nothing_changes(make_bench: Callable[..., PackBench]) -> None:
    bench = make_bench(engines=1)
    bench.intervals["endpoint_resync"] = 0.05
    bench.start()
    bench.until(lambda: bench.endpoints(0), what="published")
    before = len(bench.events("api", "patch"))
    bench.until(lambda: len(bench.events("api", "get")) > 10, what="read again")
    assert len(bench.events("api", "patch")) == before
