"""Model configs from the Hub, for a command that waits for them, and why one is not to be had."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace

import click

from slmpack.adapters.hub import SCHEME, HubModels
from slmpack.adapters.tables import bundled_config
from slmpack.config import hub_settings
from slmpack.domain.reasons import Reason
from slmpack.domain.snapshot import ModelUnknown
from slmpack.ports import ModelSource

__all__ = ["AsSeenFromHere", "fetch_config"]

BUNDLED = "--bundled-models takes the one that ships with slmpack"
INLINE = "spec.model.config does without the Hub"


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
    why = _why(found, name, waited=f"{seconds:g} s (--model-timeout)").replace("hf://", "")
    raise click.ClickException(f"{why}; download the model's config.json and give --config FILE")


class AsSeenFromHere:
    """`ports.ModelSource` that says of what another does not have why, and what whoever runs the command can do."""

    def __init__(self, other: ModelSource, *, bundled: bool, seconds: float) -> None:
        """`bundled`: whether the other has what ships with slmpack; `seconds`: how long a config is waited for."""
        self._other, self._bundled, self._seconds = other, bundled, seconds

    def lookup(self, *, source: str, revision: str | None) -> Mapping[str, object] | ModelUnknown:
        """The other's answer; its reason stays, its words are of this side."""
        found = self._other.lookup(source=source, revision=revision)
        if not isinstance(found, ModelUnknown):
            return found
        ships = revision in {None, "main"} and bundled_config(source.removeprefix(SCHEME)) is not None
        helps = [BUNDLED] if ships and not self._bundled else []
        if found.reason in {Reason.MODEL_PENDING, Reason.MODEL_UNAVAILABLE}:
            said = _why(found, source, waited=f"{self._seconds:g} s")
            helps = helps or [INLINE]
        else:  # of the model itself: what would work is in the message
            said = found.message.replace("the operator", "slmpack")
        return replace(found, message="; ".join((said, *helps)))


def _why(found: ModelUnknown, name: str, *, waited: str) -> str:
    """Without what the operator would do about it."""
    if found.reason is Reason.MODEL_PENDING:
        return f"config.json of {name} did not come within {waited}"
    return found.message.partition("; ")[0].replace("the operator", "slmpack")


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
