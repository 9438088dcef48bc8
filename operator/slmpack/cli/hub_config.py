"""One model's config.json from the Hub, for a command that waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import click

from slmpack.adapters.hub import HubModels
from slmpack.config import hub_settings
from slmpack.domain.reasons import Reason
from slmpack.domain.snapshot import ModelUnknown

__all__ = ["fetch_config"]


def fetch_config(name: str, *, seconds: float) -> Mapping[str, object]:
    """The config of `owner/name`; click.ClickException with what would work where it is not to be had in time."""
    silent = logging.NullHandler()
    logger = logging.getLogger("slmpack.adapters.hub")  # what it would log is the message that is raised
    logger.addHandler(silent)
    try:
        found = asyncio.run(_fetch(name, seconds=seconds))
    finally:
        logger.removeHandler(silent)
    if not isinstance(found, ModelUnknown):
        return found
    if found.reason is Reason.MODEL_PENDING:
        why = f"config.json of {name} did not come within {seconds:g} s (--model-timeout)"
    else:
        why = found.message.partition("; ")[0].replace("the operator", "slmpack").replace("hf://", "")
    raise click.ClickException(f"{why}; download the model's config.json and give --config FILE")


async def _fetch(name: str, *, seconds: float) -> Mapping[str, object] | ModelUnknown:
    arrived = asyncio.Event()
    async with HubModels(hub_settings(), wake=arrived.set) as hub:
        found = hub.lookup(source=f"hf://{name}", revision=None)
        if isinstance(found, ModelUnknown) and found.reason is Reason.MODEL_PENDING:
            try:
                await asyncio.wait_for(arrived.wait(), timeout=seconds)
            except TimeoutError:
                return found
            found = hub.lookup(source=f"hf://{name}", revision=None)
    return found
