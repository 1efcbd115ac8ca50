"""Responses of web servers, read up to a limit and never unpacked: a kilobyte must not become a gigabyte.

A server elsewhere does not make this machine ask servers that only it can reach: redirects to them are refused.
"""

import asyncio
import ipaddress
import socket
from contextvars import ContextVar
from typing import Any

import aiohttp
from yarl import URL

from unialign.cache.remote.transport import Unwanted

# Maximum size of the response that is currently awaited.
LIMIT: ContextVar[int] = ContextVar("limit", default=1 << 20)


class BoundedResponse(aiohttp.ClientResponse):
    """A response that is read up to one byte beyond the limit, without decompression."""

    async def read(self) -> bytes:
        """The body, cut after the first excess byte. Raises `Unwanted` for a compressed one."""
        if self.headers.get("Content-Encoding", "identity").lower() != "identity":
            self.close()
            raise Unwanted("the server compresses it, although it was asked not to")
        limit, parts, size = LIMIT.get(), [], 0
        async for part in self.content.iter_chunked(1 << 16):
            parts.append(part)
            size += len(part)
            if size > limit:
                # The rest is not needed; a connection with unread bytes cannot be reused.
                self.close()
                break
        return b"".join(parts)[: limit + 1]


async def is_inside(host: str) -> bool:
    """Whether a host is this machine or in its own network, as far as its name can be resolved."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(not ipaddress.ip_address(str(where[4][0]).partition("%")[0]).is_global for where in found)


async def _check_redirect(session: Any, context: Any, params: aiohttp.TraceRequestRedirectParams) -> None:
    """Raise `Unwanted` where a server elsewhere redirects to one inside."""
    target = params.url.join(URL(params.response.headers.get("Location", "")))
    if await is_inside(target.host or "") and not await is_inside(params.url.host or ""):
        raise Unwanted(f"the server redirects to {target.host}, which is inside this network")


def client_options() -> dict[str, object]:
    """Arguments of `aiohttp.ClientSession` to get such responses."""
    redirects = aiohttp.TraceConfig()
    redirects.on_request_redirect.append(_check_redirect)
    return {
        "trace_configs": [redirects],
        "response_class": BoundedResponse,
        "auto_decompress": False,
        "headers": {"Accept-Encoding": "identity"},
    }
