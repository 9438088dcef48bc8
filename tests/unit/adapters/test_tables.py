from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from slmpack.adapters import tables
from slmpack.adapters.tables import bundled_config, bundled_models, load_engine_table, load_gpu_catalogue
from slmpack.domain.engine import FIRST_SUPPORTED, EngineVersion, FlagClass, FlagType
from slmpack.domain.model import ModelProfile, parse_model_config

DATA = Path(__file__).parents[3] / "operator" / "slmpack" / "data"
HELP = (Path(__file__).parents[2] / "data" / "vllm-flags-0.32.txt").read_text(encoding="utf-8")
V32 = EngineVersion(0, 32)
TABLE = load_engine_table()


def help_flags() -> dict[str, set[str]]:
    """Spellings by flag, as `vllm serve --help=all` of 0.32.0 lists them."""
    found: dict[str, set[str]] = {}
    for line in re.findall(r"^  (-.*)$", HELP, flags=re.MULTILINE):
        spellings = re.findall(r"(?:^|, )(--?[A-Za-z0-9-]+)", line)
        found[next(name for name in spellings if name.startswith("--"))] = set(spellings)
    return found


def test_every_flag_of_the_help_is_classed_and_no_other_claims_that_version() -> None:
    assert {flag.name for flag in TABLE.flags if TABLE.supports(flag.name, V32)} == set(help_flags())
    assert len(help_flags()) == 317


def test_short_forms_and_negations_are_those_of_the_help() -> None:
    for flag in TABLE.flags:
        spellings = help_flags().get(flag.name)
        if spellings is None:
            continue
        negated = {f"--no-{flag.key}"} & spellings
        assert bool(negated) == (flag.type is FlagType.BOOL), flag.name
        others = {name.lstrip("-") for name in spellings - negated - {flag.name}}
        assert others <= set(flag.aliases), flag.name


def test_each_flag_stands_once_and_within_the_supported_versions() -> None:
    names = Counter(name for flag in TABLE.flags for name in (flag.key, *flag.aliases))
    assert {name for name, count in names.items() if count > 1} == set()
    for flag in TABLE.flags:
        assert flag.since >= FIRST_SUPPORTED, flag.name
        assert flag.until is None or flag.since <= flag.until, flag.name


def test_a_flag_that_is_not_passed_says_why_and_one_that_is_does_not() -> None:
    closed = {FlagClass.REFUSED, FlagClass.RESERVED}
    assert [flag.name for flag in TABLE.flags if bool(flag.why) != (flag.flag_class in closed)] == []
    assert {flag.name for flag in TABLE.flags if flag.flag_class is FlagClass.MODELLED} == {
        "--dtype",
        "--enable-lora",
        "--enforce-eager",
        "--kv-cache-dtype",
        "--max-lora-rank",
        "--max-loras",
        "--max-num-batched-tokens",
        "--max-num-seqs",
        "--quantization",
    }


def test_the_runtimes_cover_every_supported_version_without_a_gap() -> None:
    for minor in range(11, 34):
        for patch in range(4):
            TABLE.runtime_for(EngineVersion(0, minor, patch))
    assert [(str(runtime.since), runtime.validated) for runtime in TABLE.runtimes] == [
        ("0.5.0", True),
        ("0.11.0", True),
        ("0.12.0", False),
        ("0.20.2", False),
    ]


def test_every_constant_names_its_source_and_spread() -> None:
    for runtime in yaml.safe_load((DATA / "engines.yaml").read_text(encoding="utf-8"))["runtimes"]:
        assert runtime["cuda_graphs_source"]
        assert set(runtime["margin_gib"]) == {"value", "date", "source"}
        for term in runtime["terms"].values():
            assert set(term) == {"low", "expected", "high", "date", "source", "spread"}
            assert term["low"] <= term["expected"] <= term["high"]


def test_the_catalogue_holds_the_gpus_with_their_profiles() -> None:
    catalogue = load_gpu_catalogue()
    assert len(catalogue.models) == 25
    a100 = catalogue.by_product("NVIDIA-A100-SXM4-40GB")
    assert a100 is not None
    assert [(p.name, p.memory_mib, p.memory_slices, p.max_instances) for p in a100.mig_profiles[:3]] == [
        ("1g.5gb", 4864, 1, 7),
        ("1g.5gb+me", 4864, 1, 1),
        ("1g.10gb", 9856, 2, 4),
    ]
    l4 = catalogue.find("l4")
    assert l4 is not None
    assert (l4.memory_total_mib, l4.memory_usable_mib, l4.mps_max_clients, l4.mig_profiles) == (23034, 22563, 48, ())


def test_where_no_source_gives_the_total_it_is_what_cuda_reports() -> None:
    card = load_gpu_catalogue().by_id("a100-pcie-40gb")
    assert card is not None
    assert card.memory_total_mib == card.memory_usable_mib == 40326


def test_ids_and_labels_are_unique_and_placements_fit() -> None:
    models = load_gpu_catalogue().models
    assert max(Counter(model.id for model in models).values()) == 1
    assert max(Counter(label for model in models for label in model.product_labels).values()) == 1
    for model in models:
        assert model.memory_usable_mib is None or model.memory_usable_mib <= model.memory_total_mib
        for profile in model.mig_profiles:
            assert profile.max_instances <= len(profile.placement_starts), (model.id, profile.name)
            assert profile.memory_mib is None or profile.memory_mib < model.memory_total_mib


def test_every_bundled_config_is_of_a_known_layout_and_names_its_source() -> None:
    assert "Qwen/Qwen2.5-1.5B-Instruct" in bundled_models()
    for model_id in bundled_models():
        config = bundled_config(model_id)
        assert config is not None
        assert config["_source"]
        assert isinstance(parse_model_config(config), ModelProfile), model_id


def test_a_config_that_is_not_bundled_is_none() -> None:
    assert bundled_config("../engines") is None
    assert bundled_config("nobody/nothing") is None


def test_a_bundled_config_may_be_changed_by_its_reader() -> None:
    first = bundled_config("Qwen/Qwen3-0.6B")
    assert first is not None
    first.clear()
    assert bundled_config("Qwen/Qwen3-0.6B")


def test_a_version_in_a_table_must_be_one() -> None:
    with pytest.raises(ValueError, match="'soon' in a bundled table"):
        tables._version("soon")
