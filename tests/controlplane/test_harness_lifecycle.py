"""The control plane comes up or says why not, and leaves nothing behind, however its test run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.binaries import MODULE, PROGRAMS, SOURCES, BinariesError, cache_folder, ensure_binaries
from tests.support.control_plane import ControlPlane, StartError

ROOT = Path(__file__).parents[2]
HOLDER = """
from tests.support.control_plane import ControlPlane
with ControlPlane.start() as control_plane:
    print(control_plane.folder, *control_plane.pids.values(), flush=True)
    input()
    {ending}
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_nothing_is_left(folder: Path, pids: list[int]) -> None:
    deadline = time.monotonic() + 10.0
    while folder.exists() or any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, f"left behind: {folder if folder.exists() else pids}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("ending", "sent", "status"),
    [
        ("raise ValueError", None, 1),
        ("pass", signal.SIGINT, -signal.SIGINT),
        ("pass", signal.SIGKILL, -signal.SIGKILL),
    ],
    ids=["exception", "ctrl-c", "kill -9"],
)
def test_nothing_is_left_behind(ending: str, sent: signal.Signals | None, status: int) -> None:
    command = [sys.executable, "-c", HOLDER.format(ending=ending)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as holder:
        assert holder.stdout is not None
        folder, *pids = holder.stdout.readline().split()
        running = [int(pid) for pid in pids]
        assert len(running) == 5
        assert all(is_running(pid) for pid in running)
        if sent is not None:
            holder.send_signal(sent)
        holder.communicate("\n")
        assert holder.returncode == status
    assert_nothing_is_left(Path(folder), running)


def test_ctrl_c_during_the_start_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER.format(ending="pass")]
    env = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as holder:
        while not list(tmp_path.glob("*/kube-apiserver.log")):
            assert holder.poll() is None
            time.sleep(0.05)
        (folder,) = tmp_path.glob("slmpack-control-plane-*")
        holder.send_signal(signal.SIGINT)
    assert_nothing_is_left(folder, [])
    assert not [line for line in _command_lines() if str(folder) in line]


def _command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return lines


def test_a_component_that_fails_is_named_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = tmp_path / "bin"
    assets.mkdir()
    for name in PROGRAMS:
        (assets / name).symlink_to(ensure_binaries() / name)
    (assets / "kube-scheduler").unlink()
    (assets / "kube-scheduler").write_text("#!/bin/sh\necho no such luck >&2\nexit 7\n")
    (assets / "kube-scheduler").chmod(0o755)
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setenv("SLMPACK_CONTROL_PLANE", str(assets))
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with pytest.raises(StartError, match="kube-scheduler ended with 7:\nno such luck"), ControlPlane.start():
        pass
    assert not list(scratch.iterdir())
    assert not [line for line in _command_lines() if str(scratch) in line]


def test_an_incomplete_folder_named_by_the_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMPACK_CONTROL_PLANE", str(tmp_path))
    expected = f"SLMPACK_CONTROL_PLANE={tmp_path}: the folder lacks kube-apiserver, kube-controller-manager"
    with pytest.raises(BinariesError, match=expected):
        ensure_binaries()


def test_kubebuilder_assets_count_only_if_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = ensure_binaries()
    monkeypatch.delenv("SLMPACK_CONTROL_PLANE", raising=False)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (tmp_path / name).symlink_to(built / name)
    said: list[str] = []
    assert ensure_binaries(say=said.append) == cache_folder()
    assert said == [
        f"control plane: KUBEBUILDER_ASSETS={tmp_path} is not used: it lacks kube-controller-manager, kube-scheduler"
    ]
    for name in ("kube-controller-manager", "kube-scheduler"):
        (tmp_path / name).symlink_to(built / name)
    assert ensure_binaries() == tmp_path


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a PATH that starts with an empty folder for a stand-in `go`."""
    for name in ("SLMPACK_CONTROL_PLANE", "KUBEBUILDER_ASSETS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "path").mkdir()
    return tmp_path


def a_go(folder: Path, *, version: str, build: str) -> None:
    go = folder / "path" / "go"
    go.write_text(
        f'#!/bin/sh\nif [ "$1" = version ]; then echo "go version {version} linux/amd64"; exit; fi\n{build}\n'
    )
    go.chmod(0o755)


def test_a_build_that_fails_shows_what_go_said_and_leaves_no_half_of_it(empty_cache: Path) -> None:
    a_go(empty_cache, version="go1.26.6", build="echo some reason >&2; exit 1")
    said: list[str] = []
    with pytest.raises(BinariesError, match=r"(?s)building kube-apiserver .* ended with 1:\nsome reason"):
        ensure_binaries(say=said.append)
    assert "control plane: [1/5] kube-apiserver ..." in said
    assert [path.name for path in cache_folder().parent.iterdir()] == ["lock"]


def test_a_build_ends_with_all_programs_in_the_cache(empty_cache: Path) -> None:
    writes_its_output = 'while [ "$1" != -o ]; do shift; done; echo "#!/bin/sh" >"$2"; chmod +x "$2"'
    a_go(empty_cache, version="go1.26.6", build=writes_its_output)
    folder = ensure_binaries(say=_quiet)
    assert folder.is_relative_to(empty_cache)
    assert sorted(path.name for path in folder.iterdir()) == sorted(PROGRAMS)


def test_go_of_another_series_gives_way_to_the_wheel_or_is_refused(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_go(empty_cache, version="go1.27.1", build="exit 1")
    monkeypatch.setattr("importlib.metadata.distribution", _no_distribution)
    with pytest.raises(BinariesError, match=r"needs go1\.26\.x.*found: .*/path/go is go1\.27\.1\."):
        ensure_binaries(say=_quiet)


def _quiet(text: str) -> None:
    pass


def _no_distribution(name: str) -> None:
    import importlib.metadata

    raise importlib.metadata.PackageNotFoundError(name)


def test_the_key_of_the_cache_covers_every_file_of_the_go_module() -> None:
    files = {str(path.relative_to(MODULE)) for path in MODULE.rglob("*") if path.suffix in {".go", ".mod", ".sum"}}
    assert files == set(SOURCES)
