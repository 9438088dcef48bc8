"""Device memory that vLLM sets aside for LoRA adapters before any is loaded.

`--max-loras` slots of `--max-lora-rank` hold, for each linear layer with its q, k, v, gate and up parts one by one (and
for each expert's), an A matrix of rank by inputs and a B matrix of outputs by rank. The input embedding and the output
head hold a pair of (vocabulary, rank) and (hidden_size, rank) each; vLLM makes these for most architectures only, so
that they are an upper bound. Adapters that wait in host memory (`--max-cpu-loras`) take nothing here. Source: vLLM,
lora/layers/{base_linear,column_parallel_linear,fused_moe,vocab_parallel_embedding,logits_processor}.py.
"""

from __future__ import annotations

from slmpack.domain.model_profile import ModelProfile, Task

__all__ = ["lora_bytes"]


def lora_bytes(model: ModelProfile, *, max_loras: int, max_rank: int, dtype_bytes: int) -> int:
    """Bytes for `max_loras` adapters of at most `max_rank`; `dtype_bytes` is of --lora-dtype, auto: the model's."""
    linears = sum(group.count * (group.inputs + group.outputs) for group in model.linears)
    tables = 2 if model.task is Task.GENERATE else 1
    vocabulary = tables * (model.vocab_size + model.hidden_size)
    return max_loras * max_rank * dtype_bytes * (linears + vocabulary)
