"""The file of names: what it may say, and what is said of one that is wrong. Also: what the docs list is so."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from slmpack.adapters.metric_names import EngineNames, LabelNames, MetricNames, load_metric_names
from slmpack.adapters.promql import EngineQueries, gpu_queries
from slmpack.domain.snapshot import Key

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def _load(tmp_path: Path, text: str | bytes) -> MetricNames:
    path = tmp_path / "names.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_metric_names(path)


def test_what_the_docs_list_are_the_defaults(tmp_path: Path) -> None:
    block = DOCS.read_text().split("```yaml\n")[1].split("```")[0]
    assert _load(tmp_path, block) == MetricNames()
    listed = yaml.safe_load(block)
    assert {group: set(keys) for group, keys in listed.items()} == {
        name: set(type(getattr(MetricNames(), name)).model_fields) for name in MetricNames.model_fields
    }


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert _load(tmp_path, "") == MetricNames()


def test_one_name_or_several(tmp_path: Path) -> None:
    found = _load(tmp_path, "engine: {running: vllm_running, itl: [a, b]}\nlabels: {deployment: slmpack_dev_name}")
    assert found.engine == EngineNames(running=("vllm_running",), itl=("a", "b"))
    assert found.labels == LabelNames(deployment="slmpack_dev_name")
    assert found.gpu == MetricNames().gpu


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("engine: {runing: a}", "engine.runing: there is no such key; engine has running, waiting,"),
        ("engines: {}", "engines: there is no such key; there are engine, gpu, labels"),
        ("engine: {running: 'a b'}", "engine.running.0: 'a b' is no metric name: letters, digits, _ and : only"),
        ("engine: {running: []}", "engine.running: give a name, or a list of names"),
        ("engine: {running: 5}", "engine.running: give a name, or a list of names"),
        ("labels: {pod: 'a:b'}", "labels.pod: 'a:b' is no label name"),
        ("gpu: {power: '{x=\"y\"}'}", "is no metric name"),
        ("engine: [", "no YAML: "),
        (b"a: \x00", "no YAML: "),
        ("[1]", "must be a mapping with the keys engine, gpu, labels"),
        ("a" * 70_000, "longer than 65536 bytes"),
        ("engine: {runing: a, wating: b}", "; engine.wating: there is no such key"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(ValueError, match=r"names\.yaml: ") as caught:
        _load(tmp_path, text)
    assert words in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.yaml: cannot be read: No such file or directory"):
        load_metric_names(tmp_path / "nothing.yaml")


def test_every_name_enters_a_query() -> None:
    """Each is replaced by one that nothing else has: a name that no query has would be configured in vain."""
    defaults = MetricNames()
    groups = {
        group: {
            name: "x_" + name if isinstance(value, str) else ("x_" + name,) for name, value in getattr(defaults, group)
        }
        for group in MetricNames.model_fields
    }
    groups["labels"]["deployment"] = "x_deployment"
    names = MetricNames.model_validate(groups)
    queries = EngineQueries(names=names, deployments=(Key("team", "a.b"),))
    engine = [getattr(queries, name)() for name in dir(queries) if name[0] != "_" and callable(getattr(queries, name))]
    text = " ".join([*engine, *gpu_queries(names).values()])
    # The pod's name is not looked at where a label has the SLMDeployment's.
    assert [f"x_{name}" for group in groups.values() for name in group if f"x_{name}" not in text] == []
    assert 'x_deployment=~"a\\\\.b"' in text
