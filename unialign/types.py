"""Types that every layer uses."""

from typing import Any

# Anything that JSON can hold: None, bool, numbers, str, lists and dicts of these.
Json = Any
