"""Which folders are the local side of a cache in object storage, a mirror; `remote/mirror.py` says what is in one."""

from pathlib import Path

from unialign.cache.bounded import parse_json, read_plain
from unialign.cache.schema import METADATA_BYTES
from unialign.errors import CacheProblem, UsageError

# What makes a folder a mirror: the file that names its cache.
ABOUT = ".bucket.json"


def bucket_of(cache: Path) -> str:
    """The URL of the cache that a folder is the mirror of; "" for any other folder."""
    try:
        return str(parse_json(read_plain(cache / ABOUT, METADATA_BYTES))["url"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheProblem(f"{cache / ABOUT} cannot be read; delete that folder, and repeat.") from error


def url_of(path: Path) -> str:
    """The URL of a store whose local side is at a path; "" for a store that is here as a whole."""
    bucket = bucket_of(path.parents[2]) if len(path.parts) > 3 else ""
    return f"{bucket}/{path.relative_to(path.parents[2]).as_posix()}" if bucket else ""


def check_whole(cache: Path, what: str) -> None:
    """Raise `UsageError` for a mirror: what a command does needs the shards here."""
    bucket = bucket_of(cache)
    if bucket:
        raise UsageError(
            f"{what} needs a cache on a disk, and {bucket} is in object storage: work in a local cache (`cache import "
            "URL` brings a store into it) and send the store with `cache export STORE URL`."
        )
