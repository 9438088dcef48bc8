"""docs/scaling.md: its worked example is what the decision says, and its table has every constant."""

from __future__ import annotations

from dataclasses import fields
from datetime import timedelta
from pathlib import Path

from slmpack.domain.scale_decision import FigureName, ScaleDecision
from slmpack.domain.scale_policy import ScalePolicy
from tests.support.scaling import scaled

PAGE = (Path(__file__).parents[3] / "docs" / "scaling.md").read_text(encoding="utf-8")


def example() -> ScaleDecision:
    """Two replicas of Qwen2.5-1.5B-Instruct on one of four H100 whose device plugin shares each by MPS in four."""
    world = scaled().running(2).with_state(2, start_s=45.0)
    return world.under(
        48.0,
        arrivals_now_s=54.0,
        arrivals_peak_s=49.0,
        arrivals_high_s=52.0,
        arrivals_mean_s=41.0,
        waiting=32.0,
        itl_s=0.011,
        generation_tok_s=11_000.0,
        completions_s=None,
    ).decide()


def block(decision: ScaleDecision) -> str:
    rows = [f"{it.name:14} {it.value:10.4g} {it.unit:11} {it.basis}".rstrip() for it in decision.figures]
    return "\n".join([f"desired {decision.desired}, wished {decision.wished}: {decision.message}", *rows])


def test_the_worked_example() -> None:
    assert block(example()) in PAGE, block(example())


def test_every_figure_that_is_looked_up_by_name_is_told() -> None:
    named = {value for name, value in vars(FigureName).items() if name.isupper()}
    assert "demand" in named
    measured = {"itl_s": 0.011, "generation_tok_s": 11_000.0, "ttft_s": 0.2, "kv_usage": 0.5}
    assert named <= {it.name for it in scaled().running(2).under(48.0, **measured).decide().figures}


def test_every_constant_is_explained() -> None:
    policy = ScalePolicy()
    for field in fields(policy):
        value = getattr(policy, field.name)
        told = f"{value.total_seconds():g}" if isinstance(value, timedelta) else f"{value:g}"
        assert f"| `{field.name}` | {told} |" in PAGE, f"| `{field.name}` | {told} |"
