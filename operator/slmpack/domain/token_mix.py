"""How long requests are: as they are measured, else as the spec states or assumes."""

from __future__ import annotations

from slmpack.domain.capacity import Mix, rounded
from slmpack.domain.load import SHORT, LoadSample
from slmpack.domain.scale_policy import ScalePolicy
from slmpack.domain.workload import Workload

__all__ = ["mix_of"]


def mix_of(sample: LoadSample, workload: Workload, policy: ScalePolicy) -> tuple[Mix, str]:
    """Tokens of a request, rounded, and where they come from: measured, else as stated or assumed in the spec.

    Over SHORT where enough requests ended in it, as lengths change with the load; else over PEAK.
    """
    measured = sample.input_tokens is not None and sample.output_tokens is not None
    lengths = _lengths_now(sample, policy) if measured else None
    input_tokens, output_tokens = lengths or (sample.input_tokens, sample.output_tokens)
    mix = Mix(
        _tokens(input_tokens if measured and input_tokens else workload.input_tokens, policy),
        _tokens(output_tokens if measured and output_tokens else workload.output_tokens, policy),
        workload.prefix_hit_rate,
    )
    return mix, "measured" if measured else "assumed"


def _lengths_now(sample: LoadSample, policy: ScalePolicy) -> tuple[float, float] | None:
    """Of the requests that ended within SHORT; None where they are too few for a mean."""
    ended = (sample.completions_s or 0.0) * SHORT.total_seconds()
    if ended < policy.least_ended or not sample.prompt_tok_s or not sample.generation_tok_s or not sample.completions_s:
        return None
    return sample.prompt_tok_s / sample.completions_s, sample.generation_tok_s / sample.completions_s


def _tokens(count: float, policy: ScalePolicy) -> int:
    return round(rounded(max(1.0, count), policy.mix_step))
