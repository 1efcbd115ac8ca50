"""Numbers in sentences."""


def counted(number: int, one: str, many: str = "") -> str:
    """ "1 sample was", "2,000 samples were": the number with `one`, or with `many` (by default `one` and an s)."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
