"""Responses of web servers, read up to a limit and never unpacked: a kilobyte must not become a gigabyte."""

from contextvars import ContextVar

import aiohttp

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


def client_options() -> dict[str, object]:
    """Arguments of `aiohttp.ClientSession` to get such responses."""
    return {
        "response_class": BoundedResponse,
        "auto_decompress": False,
        "headers": {"Accept-Encoding": "identity"},
    }
