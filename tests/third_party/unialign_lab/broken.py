"""A plug-in whose own requirement is missing."""

import a_library_that_nobody_has  # noqa: F401
