"""The policy that operator and command line share: the tables that ship with slmpack, and the rules' numbers."""

from __future__ import annotations

from slmpack.adapters.performance_table import load_performance_table
from slmpack.adapters.tables import load_engine_table, load_gpu_catalogue
from slmpack.domain.snapshot import Policy

__all__ = ["load_policy"]


def load_policy() -> Policy:
    """Everything that a decision reads beside the cluster."""
    return Policy(gpus=load_gpu_catalogue(), engines=load_engine_table(), performance=load_performance_table())
