"""HTTP to pods: they come and go, so no connection is kept; proxies and cookies of the environment are not for them."""

from __future__ import annotations

import aiohttp

__all__ = ["pod_session"]


def pod_session(**headers: str) -> aiohttp.ClientSession:
    """A session of the running loop; whoever opens it closes it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        headers={"User-Agent": "slmpack", **headers},
    )
