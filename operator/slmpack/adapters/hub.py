"""config.json of models on a Hugging Face Hub (or a mirror of one), fetched in the background and kept in memory.

A lookup never blocks and never raises. What failed is tried again with back-off, by the lookups that come anyway. The
size of the checkpoint comes with the config, as `CHECKPOINT_KEY`, where its metadata can be read; else without it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Self
from urllib.parse import quote

import aiohttp

from slmpack.adapters.clock import SystemClock
from slmpack.adapters.safetensors import UnreadableError, checkpoint_bytes
from slmpack.adapters.tables import bundled_config
from slmpack.domain.checkpoint import CHECKPOINT_KEY
from slmpack.domain.internal import internal_problem
from slmpack.domain.reasons import Reason
from slmpack.domain.snapshot import ModelUnknown
from slmpack.ports import Clock, ModelSource

__all__ = ["BundledFirst", "HubModels", "HubSettings"]

logger = logging.getLogger(__name__)

SCHEME = "hf://"
LARGEST_BYTES = 1024 * 1024
"""A config.json has a few KiB."""
LIMITS = aiohttp.ClientTimeout(total=30, sock_connect=5, sock_read=10)
METADATA_SECONDS = 10.0
"""For the size of a checkpoint, which a config need not wait for."""
FIRST_RETRY_SECONDS = 5.0
LAST_RETRY_SECONDS = 300.0
CONCURRENT_FETCHES = 8
KEPT_SECONDS = 3600.0
"""What no lookup has asked for in this long is forgotten: every cycle asks for all that is in use."""

Config = Mapping[str, object]
_UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """Where and as whom to fetch."""

    endpoint: str = "https://huggingface.co"
    token: str | None = None
    offline: bool = False
    """Answer from the cache folder only."""
    cache: Path | None = None
    """A folder that outlives the process; what cannot be written there is kept in memory only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    unknown: ModelUnknown
    tries: int
    retry_at: float


class HubModels:
    """`ports.ModelSource` for hf:// sources. `wake` is called whenever an answer has come."""

    def __init__(
        self, settings: HubSettings | None = None, *, wake: Callable[[], object], clock: Clock | None = None
    ) -> None:
        self._settings = settings or HubSettings()
        self._wake = wake
        self._clock = clock or SystemClock()
        self._known: dict[tuple[str, str], Config] = {}
        self._failed: dict[tuple[str, str], _Failure] = {}
        self._asked_at: dict[tuple[str, str], float] = {}
        self._fetches: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(CONCURRENT_FETCHES)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._fetches.values():
            task.cancel()
        await asyncio.gather(*self._fetches.values(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def lookup(self, *, source: str, revision: str | None) -> Config | ModelUnknown:
        """The config if it is here; else why not, and it is on its way where that can help."""
        if not source.startswith(SCHEME):
            message = f"the operator cannot read {source}; put the model's config.json into spec.model.config"
            return ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message=message)
        wanted = (source.removeprefix(SCHEME), revision or "main")
        self._asked_at[wanted] = self._clock.monotonic()
        if wanted in self._known:
            return self._known[wanted]
        failure = self._failed.get(wanted)
        if wanted not in self._fetches and (failure is None or self._clock.monotonic() >= failure.retry_at):
            task = asyncio.create_task(self._fetch(*wanted), name=f"config of {wanted[0]}")
            self._fetches[wanted] = task
            task.add_done_callback(lambda _: self._fetches.pop(wanted, None))
        if failure is not None:
            return failure.unknown
        return ModelUnknown(reason=Reason.MODEL_PENDING, message=f"config.json of {source} is being fetched")

    async def _fetch(self, repo: str, revision: str) -> None:
        found = await self._find(repo, revision)
        wanted = (repo, revision)
        if isinstance(found, ModelUnknown):
            before = self._failed.get(wanted)
            tries = before.tries + 1 if before else 1
            pause = min(FIRST_RETRY_SECONDS * 2 ** min(tries - 1, 10), LAST_RETRY_SECONDS)
            self._failed[wanted] = _Failure(unknown=found, tries=tries, retry_at=self._clock.monotonic() + pause)
            logger.warning("%s", found.message)
        else:
            self._known[wanted] = found
            self._failed.pop(wanted, None)
        self._fetches.pop(wanted, None)
        self._forget()
        self._wake()

    def _forget(self) -> None:
        since = self._clock.monotonic() - KEPT_SECONDS
        for wanted in [of for of, asked in self._asked_at.items() if asked < since]:
            del self._asked_at[wanted]
            self._known.pop(wanted, None)
            self._failed.pop(wanted, None)

    async def _find(self, repo: str, revision: str) -> Config | ModelUnknown:
        try:
            async with self._slots:
                cached = await asyncio.to_thread(self._read_cache, repo, revision)
                found = await self._download(repo, revision) if cached is None else cached
                return found if isinstance(found, ModelUnknown) else await self._weighed(repo, revision, found)
        except Exception as error:  # one model's bug must not be asked for again without a pause
            problem = internal_problem(error, during=f"fetching config.json of {SCHEME}{repo}")
            logger.exception("%s", problem.message)
            return ModelUnknown(reason=problem.reason, message=problem.message)

    async def _download(self, repo: str, revision: str) -> Config | ModelUnknown:
        if self._settings.offline:
            return _unavailable(repo, "the operator is offline (HF_HUB_OFFLINE); put it into spec.model.config")
        url = self._url(repo, revision, "config.json")
        try:
            status, content = await self._get(url, most=LARGEST_BYTES + 1)
        except _UNREACHABLE as error:
            return _unavailable(repo, f"GET {url}: {str(error) or type(error).__name__}")
        if status != HTTPStatus.OK:
            return self._refused(repo, revision, url=url, status=status)
        found = _parse(repo, content)
        if isinstance(found, ModelUnknown):
            return found
        config = {key: value for key, value in found.items() if key != CHECKPOINT_KEY}
        await asyncio.to_thread(self._write_cache, repo, revision, config)
        return config

    async def _weighed(self, repo: str, revision: str, config: Config) -> Config:
        """The config with the size of its checkpoint; 0, which is kept in the cache only, says that there is none."""
        if CHECKPOINT_KEY not in config and not self._settings.offline:
            try:
                async with asyncio.timeout(METADATA_SECONDS):
                    size = await checkpoint_bytes(
                        lambda name, most: self._get(self._url(repo, revision, name), most=most, ranged=True)
                    )
            except (UnreadableError, *_UNREACHABLE) as error:
                why = str(error) or type(error).__name__
                logger.warning("the size of %s%s is taken from its config.json: %s", SCHEME, repo, why)
            else:
                config = {**config, CHECKPOINT_KEY: size}
                await asyncio.to_thread(self._write_cache, repo, revision, config)
        return config if config.get(CHECKPOINT_KEY) else {k: v for k, v in config.items() if k != CHECKPOINT_KEY}

    def _url(self, repo: str, revision: str, name: str) -> str:
        return f"{self._settings.endpoint.rstrip('/')}/{quote(repo)}/resolve/{quote(revision, safe='')}/{name}"

    async def _get(self, url: str, *, most: int, ranged: bool = False) -> tuple[int, bytes]:
        """Status and the first `most` bytes, whatever is sent. A redirect to another host goes without the token."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=LIMITS, trust_env=True, headers={"User-Agent": "slmpack"})
        token = self._settings.token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if ranged:
            headers |= {"Range": f"bytes=0-{most - 1}", "Accept-Encoding": "identity"}
        async with self._session.get(url, headers=headers) as response:
            content = bytearray()
            async for chunk in response.content.iter_chunked(65536):
                content += chunk
                if len(content) >= most:
                    break
            return response.status, bytes(content[:most])

    def _refused(self, repo: str, revision: str, *, url: str, status: int) -> ModelUnknown:
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            have = "its token has no access" if self._settings.token else "it has no token (HF_TOKEN)"
            message = (
                f"{SCHEME}{repo} is gated, private or does not exist: the operator got {status} from {url}, as {have}; "
                "grant the access, or put the model's config.json into spec.model.config"
            )
            return ModelUnknown(reason=Reason.MODEL_GATED, message=message)
        if status == HTTPStatus.NOT_FOUND:
            message = f"{SCHEME}{repo} has no config.json at revision {revision!r} ({url}); check both names"
            return ModelUnknown(reason=Reason.MODEL_NOT_FOUND, message=message)
        return _unavailable(repo, f"GET {url} answered {status}")

    def _cache_file(self, repo: str, revision: str) -> Path | None:
        folder = self._settings.cache
        return folder / quote(repo, safe="") / f"{quote(revision, safe='')}.json" if folder else None

    def _read_cache(self, repo: str, revision: str) -> Config | None:
        path = self._cache_file(repo, revision)
        try:
            found = _parse(repo, path.read_bytes()) if path else None
        except OSError:
            return None
        return None if isinstance(found, ModelUnknown) else found

    def _write_cache(self, repo: str, revision: str, config: Config) -> None:
        path = self._cache_file(repo, revision)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps(config), encoding="utf-8")
            fresh.replace(path)
        except OSError as error:
            logger.warning("config.json of %s is not cached: %s", repo, error)


class BundledFirst:
    """`ports.ModelSource` that knows the models whose configs ship with slmpack, and asks another for the rest.

    What ships is a model's main revision as it was; any other is asked for.
    """

    def __init__(self, other: ModelSource) -> None:
        self._other = other
        self._bundled: dict[str, Config] = {}

    def lookup(self, *, source: str, revision: str | None) -> Config | ModelUnknown:
        """The bundled config where there is one."""
        if revision not in {None, "main"}:
            return self._other.lookup(source=source, revision=revision)
        if source not in self._bundled:
            config = bundled_config(source.removeprefix(SCHEME))
            if config is None:
                return self._other.lookup(source=source, revision=revision)
            self._bundled[source] = config
        return self._bundled[source]


def _parse(repo: str, content: bytes) -> Config | ModelUnknown:
    if len(content) > LARGEST_BYTES:
        return _unavailable(repo, f"it is larger than {LARGEST_BYTES} bytes, which no config.json is")
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        return _unavailable(repo, f"it is not JSON: {error}")
    if not isinstance(config, dict):
        return _unavailable(repo, "it is not a JSON object")
    return config


def _unavailable(repo: str, why: str) -> ModelUnknown:
    mend = "it is tried again; spec.model.config, or the operator's --bundled-models for known models, does without"
    return ModelUnknown(reason=Reason.MODEL_UNAVAILABLE, message=f"config.json of {SCHEME}{repo}: {why}; {mend}")
