"""A real vLLM for the tests of this folder, which run only when the folder is named: they need 5 GB and minutes."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.engine.environment import VERSION, find_engine
from tests.engine.kubelet import Container
from tests.engine.parser import Parser
from tests.engine.replica import CHANGED_FLAGS, CPU_ENV, NAME, on_this_machine, rendered_pod
from tests.engine.tiny_model import write_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

HERE = Path(__file__).parent
MOST_SECONDS = 1200
"""A test, the start of its engine included: 80 s were seen on two busy cores."""
FACTS = pytest.StashKey[list[str]]()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A plain `pytest` leaves this folder alone."""
    named = [Path(arg.split("::")[0]).resolve() for arg in config.invocation_params.args if not arg.startswith("-")]
    return None if any(path == HERE or HERE in path.parents for path in named) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(MOST_SECONDS))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What was seen, for docs/engine-test.md."""
    facts = config.stash.get(FACTS, [])
    if not facts:
        return
    terminalreporter.section(f"vLLM {VERSION}, CPU build")
    for flag, why in CHANGED_FLAGS.items():
        terminalreporter.write_line(f"not as rendered: {flag} ({why})")
    for name, (value, why) in CPU_ENV.items():
        terminalreporter.write_line(f"added: {name}={value} ({why})")
    for fact in facts:
        terminalreporter.write_line(fact)


Say = Callable[[str], None]
"""Notes a fact for the summary."""


class Start(Protocol):
    """Starts an engine; keywords are those of `rendered_pod`, and `kv_cache_bytes` of `on_this_machine`."""

    def __call__(self, *, kv_cache_bytes: int = ..., **changes: Any) -> AbstractContextManager[Container]: ...


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Say:
    facts: list[str] = request.config.stash.setdefault(FACTS, [])
    return facts.append


@pytest.fixture(scope="session")
def programs() -> Path:
    """The programs of the engine's environment."""
    found = find_engine()
    if found is None:
        pytest.fail(f"vLLM {VERSION} is not installed; `make test-engine` installs it", pytrace=False)
    return found


@pytest.fixture(scope="session")
def parser(programs: Path) -> Iterator[Parser]:
    """The argument parser of `vllm serve`."""
    with Parser.of(programs) as running:
        yield running


@pytest.fixture(scope="session")
def claim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a PersistentVolumeClaim with the tiny model holds."""
    folder = tmp_path_factory.mktemp("claim")
    write_tiny_model(folder / NAME)
    return folder


@pytest.fixture(scope="session")
def start_engine(programs: Path, claim: Path) -> Start:
    @contextmanager
    def start(*, kv_cache_bytes: int = 512 * 1024**2, **changes: Any) -> Iterator[Container]:
        with tempfile.TemporaryDirectory(prefix="slmpack-engine-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            # Inductor would compile with the machine's compiler for minutes; on a GPU the default graphs are used.
            args = {"enforce-eager": "true", **changes.pop("args", {})}
            pod = rendered_pod(folder, args=args, **changes)
            runnable = on_this_machine(
                pod,
                programs=programs,
                volumes=folder / "volumes",
                model=claim,
                port=_free_port(),
                kv_cache_bytes=kv_cache_bytes,
            )
            with Container.run(runnable, log=folder / "engine.log") as container:
                yield container

    return start


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True, scope="session")
def _loopback_is_reached_directly() -> Iterator[None]:
    """As in a pod: whatever proxy this machine has, the CLI under test asks 127.0.0.1 itself."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, ",".join(filter(None, (os.environ.get(name), "127.0.0.1"))))
        yield
