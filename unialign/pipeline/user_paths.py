"""The types of a configuration's fields that hold paths; see `cache.paths`."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from unialign.cache.paths import expanded


class _Expanded(str):
    """Text that is not to be expanded again when a configuration is validated with other values; a `Path` is one."""

    __slots__ = ()


def _expand(value: Any, info: ValidationInfo) -> Any:
    # What is no text is the field's to refuse. URLs may hold $ and ~.
    if not isinstance(value, str) or isinstance(value, _Expanded) or "://" in value:
        return value
    return expanded(value, info.context)


# Types of fields: a path; and a text that may be one, such as the name of a store or its folder.
UserPath = Annotated[Path, BeforeValidator(_expand)]
UserText = Annotated[str, BeforeValidator(_expand), AfterValidator(_Expanded)]
