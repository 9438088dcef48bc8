"""The harness turns red: marks, syntax, flags and output that are not as they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.known import faults
from tests.docs.loosely import difference
from tests.docs.pages import Block, MarkError, fenced, parse_mark
from tests.docs.running import needs_cluster, play, why_not_run
from tests.docs.sandbox import programs
from tests.docs.scripts import SyntaxFault, calls, commands
from tests.docs.shell import a_shell


def a_block(text: str, *, info: str = "sh", mark: str = "") -> Block:
    before = f"<!-- docs-test: {mark} -->\n" if mark else ""
    (block,) = fenced("page.md", f"{before}```{info}\n{text}\n```\n")
    return block


def test_an_unknown_mark_is_refused() -> None:
    with pytest.raises(MarkError, match="unknown mark 'skip'"):
        parse_mark("skip")
    with pytest.raises(MarkError):
        parse_mark("parsed only")  # without a reason


def test_marks_are_read() -> None:
    mark = parse_mark("cluster examples/a.yaml; exit 2; output varies")
    assert (mark.cluster, mark.nodes, mark.exit_code, mark.varies) == (True, ("examples/a.yaml",), 2, True)
    assert parse_mark("takes hours; parsed only").reason == "takes hours"
    assert parse_mark("with slmpack a.yaml").applied == ("a.yaml",)


def test_blocks_keep_what_is_typed_and_what_is_shown() -> None:
    block = a_block("$ slmpack plan \\\n    -f a.yaml   # why\nline 1\nline 2\n\n$ true", info="console")
    first, second = commands(block)
    assert first.text == "slmpack plan \\\n    -f a.yaml   # why"
    assert first.expected == "line 1\nline 2"
    assert second.expected is None
    assert calls(first.text) == [["slmpack", "plan", "-f", "a.yaml"]]


def test_a_script_is_split_where_bash_would_run_it() -> None:
    text = "cat <<'EOF' | kubectl apply -f -\nkind: X\nEOF\n# why\nfor x in 1 2; do\n  echo $x\ndone"
    assert [len(command.text.splitlines()) for command in commands(a_block(text))] == [3, 3]
    assert calls(commands(a_block(text))[0].text) == [["cat"], ["kubectl", "apply", "-f", "-"]]


def test_broken_syntax_is_a_fault() -> None:
    with pytest.raises(SyntaxFault, match=r"page.md:1: bash does not read this"):
        commands(a_block("echo 'no end"))
    with pytest.raises(SyntaxFault, match="begins with"):
        commands(a_block("no prompt", info="console"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("slmpack plan --no-such-flag", "slmpack plan has no flag --no-such-flag"),
        ("kubectl slm nonsense", "kubectl slm has no command 'nonsense'"),
        ("slmpack estimate M --sharing bogus", "slmpack estimate --sharing takes one of"),
        ("kubectl gett pods", "kubectl has no command 'gett'"),
        ("kubectl get pods --no-such-flag", "kubectl get has no flag --no-such-flag"),
        ("kubectl -n x rollout undoo deploy/y", ""),
        ("helm installl x", "helm has no command 'installl'"),
        ("helm repo addd x", "helm repo has no command 'addd'"),
        ("make nonsense", "make has no target 'nonsense'"),
        ("frobnicate", "nobody knows the program 'frobnicate'"),
        ("echo $(frobnicate) >out 2>&1", "nobody knows the program 'frobnicate'"),
        ("kubectl get pods -A -o yaml | grep x && slmpack --help", ""),
    ],
)
def test_what_does_not_exist_is_a_fault(text: str, fault: str, helm: Path) -> None:
    found = [it for call in calls(text) for it in faults(call, programs=programs(helm))]
    assert found[0].startswith(fault) if fault else found == [], found


def test_output_is_compared() -> None:
    assert difference("a  b\n...\nc", "a b\n1\n2\nc", loose=False) == ""
    assert difference("pod/x-... created", "pod/x-abc created", loose=False) == ""
    assert difference("x  3/3  12s", "x 3/3 2m5s", loose=True) == ""
    assert difference("x 3", "x 4", loose=False) != ""
    assert difference("x Ready", "x NotReady", loose=True) != ""
    assert difference("a\n...", "b\na", loose=True) != ""


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("kubectl get slm", True),
        ("slmpack plan --cluster", True),
        ("slmpack explain chat", True),
        ("slmpack explain chat -f chat.yaml", False),
        ("helm template charts/slmpack", False),
        ("kubectl slm plan -f x.yaml", False),
    ],
)
def test_who_needs_a_cluster(text: str, *, needs: bool) -> None:
    assert needs_cluster(a_block(text)) is needs


def test_what_is_not_run_has_a_reason() -> None:
    (command,) = commands(a_block("kubectl get slm", mark="needs a GPU"))
    assert why_not_run(a_block("kubectl get slm", mark="needs a GPU"), command) == "needs a GPU"
    assert not needs_cluster(a_block("kubectl get slm", mark="needs a GPU"))
    (command,) = commands(a_block("make test"))
    assert why_not_run(a_block("make test"), command)


def test_a_shell_keeps_its_state_and_fails(tmp_path: Path) -> None:
    with a_shell(tmp_path, env={"PATH": "/usr/bin:/bin"}, scratch=tmp_path) as shell:
        assert shell.run("export X=1; mkdir y; cd y", seconds=10).code == 0
        done = shell.run("echo $X; pwd; echo no >&2; false", seconds=10)
        assert (done.code, done.output, done.told) == (1, f"1\n{tmp_path}/y\n", "no\n")
        with pytest.raises(AssertionError, match="not done after 1 s"):
            shell.run("sleep 30", seconds=1)


@pytest.mark.parametrize(
    ("text", "mark", "message"),
    [
        ("$ echo a\na", "", ""),
        ("$ echo a\nb", "", "-b"),
        ("$ echo a\nb", "output varies", ""),
        ("$ false", "", "exit status 1"),
        ("$ false", "exit 1", ""),
        ("$ true", "exit 1", "exit status 0"),
        ("$ false", "needs luck", ""),
        ("$ ls README.md && slmpack --version\nREADME.md\nslmpack, version ...", "", ""),
    ],
)
def test_a_page_is_red_where_it_is_wrong(text: str, mark: str, message: str, tmp_path: Path, helm: Path) -> None:
    block = a_block(text, info="console", mark=mark)
    if not message:
        assert play([block], folder=tmp_path, helm=helm, hub="") == (0 if "needs" in mark else 1)
        return
    with pytest.raises(AssertionError, match=message):
        play([block], folder=tmp_path, helm=helm, hub="")
