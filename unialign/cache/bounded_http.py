"""Answers of web servers, read up to a limit and never unpacked: a kilobyte that is sent must not become a gigabyte."""

from contextvars import ContextVar

import aiohttp

from unialign.cache.remote.transport import Unwanted

# Bytes that the answer which is awaited at present may have.
LIMIT: ContextVar[int] = ContextVar("limit", default=1 << 20)


class BoundedResponse(aiohttp.ClientResponse):
    """An answer of which at most one byte more than the limit is read, and which is taken as it was sent."""

    async def read(self) -> bytes:
        """The body, cut behind the first byte that is too much. Raises `Unwanted` for a compressed one."""
        if self.headers.get("Content-Encoding", "identity").lower() != "identity":
            self.close()
            raise Unwanted("the server compresses it, although it was asked not to")
        limit, parts, size = LIMIT.get(), [], 0
        async for part in self.content.iter_chunked(1 << 16):
            parts.append(part)
            size += len(part)
            if size > limit:
                # The rest is not wanted; a connection with unread bytes cannot be used again.
                self.close()
                break
        return b"".join(parts)[: limit + 1]


def client_options() -> dict[str, object]:
    """What an `aiohttp.ClientSession` takes to give such answers."""
    return {
        "response_class": BoundedResponse,
        "auto_decompress": False,
        "headers": {"Accept-Encoding": "identity"},
    }
