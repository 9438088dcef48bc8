"""Files that cannot be read: each message names the file and the line, and what would work; the exit code is 1."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import a_cr, slmpack, some_nodes, write

GOOD = "kind: SLMDeployment\nmetadata: {name: a}\nspec: {model: {source: hf://Qwen/Qwen3-0.6B}}\n"

BAD: list[tuple[str, bytes, str]] = [
    ("empty", b"", "f.yaml: is empty; give Kubernetes objects as YAML or JSON"),
    ("only comments", b"# nothing\n---\n", "f.yaml: is empty; give Kubernetes objects as YAML or JSON"),
    (
        "a text",
        b"hello\n",
        "f.yaml:1: is the text 'hello', not a Kubernetes object; it needs apiVersion, kind and metadata",
    ),
    ("a list", b"- a\n", "f.yaml:1: is a list, not a Kubernetes object"),
    (
        "no kind",
        b"metadata: {name: a}\n",
        "f.yaml:1: has no kind; plan reads SLMDeployment, Node, Pod, PriorityClass, ConfigMap, ResourceSlice, DeviceClass, ResourceClaim and List",
    ),
    ("kind is a number", b"kind: 3\n", "f.yaml:1: has no kind"),
    ("no metadata", b"kind: Node\n", "f.yaml:1: the Node has no metadata.name; give it one"),
    ("no name", b"kind: SLMDeployment\nmetadata: {}\n", "f.yaml:1: the SLMDeployment has no metadata.name"),
    (
        "namespace is a number",
        b"kind: Pod\nmetadata: {name: a, namespace: 3}\n",
        "f.yaml:1: metadata.namespace must be a string",
    ),
    *(
        (
            f"the spec of a {kind} is a text",
            f"kind: {kind}\nmetadata: {{name: a}}\nspec: x\n".encode(),
            f"f.yaml:1: spec of the {kind} must",
        )
        for kind in ("SLMDeployment", "Node", "Pod", "ResourceSlice", "ResourceClaim")
    ),
    ("the status is a list", b"kind: Pod\nmetadata: {name: a}\nstatus: [1]\n", "f.yaml:1: status of the Pod must be"),
    (
        "a tab",
        b"kind: Node\nmetadata:\n\tname: a\n",
        "f.yaml:3: is not YAML: found character that cannot start any token",
    ),
    ("an open bracket", b"kind: [Node\n", "f.yaml:2: is not YAML: did not find expected ',' or ']'"),
    ("an undefined alias", b"kind: *x\n", "f.yaml:1: is not YAML: found undefined alias"),
    ("a Python object", b"!!python/object:os.system {}\n", "f.yaml:1: is not YAML: could not determine a constructor"),
    ("the second document", b"kind: Service\nmetadata: {name: a}\n---\n- b\n", "f.yaml:4: is a list"),
    ("an item of a List", b"kind: List\nitems:\n- kind: Node\n", "f.yaml:1 item 1: the Node has no metadata.name"),
    ("not UTF-8", b"kind: Node\n# \xff\n", "f.yaml:2: is not UTF-8 text (byte 13); save it as UTF-8 YAML"),
    ("twice", (GOOD + "---\n" + GOOD).encode(), "f.yaml:5: SLMDeployment a is given twice, first at"),
    ("unhashable key", b"{[a]: b}\n", "f.yaml"),
    (
        "an unreadable quantity",
        GOOD.encode() + b"---\nkind: Node\nmetadata: {name: n, labels: {nvidia.com/gpu.product: NVIDIA-L4}}\n"
        b"status: {allocatable: {cpu: many}}\n",
        "unreadable node n: cpu: 'many' is not a Kubernetes quantity",
    ),
    ("labels that are none", GOOD.encode() + b"---\nkind: Node\nmetadata: {name: n, labels: 3}\n", "unreadable node n"),
    (
        "no such config",
        GOOD.replace("hf://Qwen/Qwen3-0.6B", "file://none.json").encode(),
        "f.yaml:1: spec.model.source file://none.json: ",
    ),
]


@pytest.mark.parametrize(("content", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    result = slmpack("plan", "-f", str(path))
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not result.stdout


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    missing = slmpack("plan", "-f", str(tmp_path / "none.yaml"))
    assert missing.exit_code == 1
    assert "none.yaml: no such file" in missing.stderr
    folder = slmpack("plan", "-f", str(tmp_path))
    assert folder.exit_code == 1
    assert "is a folder; give each file with its own -f" in folder.stderr


def test_a_config_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    result = slmpack("plan", "-f", write(tmp_path, "f.yaml", a_cr(model={"source": "file://config.json"})))
    assert result.exit_code == 1
    assert "is not a JSON object; name a model's config.json" in result.stderr


def test_standard_input_is_named(tmp_path: Path) -> None:
    result = slmpack("plan", "-f", "-", stdin="- a\n")
    assert result.exit_code == 1
    assert "standard input:1: is a list" in result.stderr


def test_nodes_come_from_one_place(tmp_path: Path) -> None:
    result = slmpack("plan", "--cluster", "-f", write(tmp_path, "f.yaml", a_cr(), some_nodes()))
    assert result.exit_code == 1
    assert "nodes and pods come from the cluster with --cluster; leave one of the two out" in result.stderr
