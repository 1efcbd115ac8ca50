"""Cutting a text that is too long for a network into pieces that it can read completely."""

from collections.abc import Callable, Sequence

from unialign.errors import UsageError


def windows(text: str, count_tokens: Callable[[str], int], max_tokens: int) -> list[str]:
    """The text in as few pieces as fit `max_tokens` each; the text itself if it fits.

    Pieces begin and end at white space; a single word that is too long is split. The pieces are made about equally long
    (by the smallest limit that needs no more pieces and splits no more words), so that a short rest does not weigh as
    much in a mean as a full piece. Raises `UsageError` if one character takes more than `max_tokens`.
    """
    if count_tokens(text) <= max_tokens:
        return [text]
    best = _fill(text, count_tokens, max_tokens)
    counts = [count_tokens(word) for word in set(text.split())]
    low, high = max((count for count in counts if count <= max_tokens), default=1), max_tokens
    while low < high:
        middle = (low + high) // 2
        pieces = _fill(text, count_tokens, middle)
        if len(pieces) <= len(best) and all(count_tokens(piece) <= middle for piece in pieces):
            best, high = pieces, middle
        else:
            low = middle + 1
    if any(count_tokens(piece) > max_tokens for piece in best):
        raise UsageError(f"a text cannot be cut into windows of {max_tokens} tokens: one character alone takes more.")
    return best


def _fill(text: str, count_tokens: Callable[[str], int], limit: int) -> list[str]:
    """Pieces filled with words from left to right up to the limit; one character is never cut."""
    pieces: list[str] = []
    words = text.split()
    while words:
        end = _num_fitting(words, " ", count_tokens, limit)
        if end:
            pieces.append(" ".join(words[:end]))
            words = words[end:]
        else:
            cut = max(1, _num_fitting(words[0], "", count_tokens, limit))
            pieces.append(words[0][:cut])
            words = [*filter(None, [words[0][cut:]]), *words[1:]]
    return pieces


def _num_fitting(parts: Sequence[str], between: str, count_tokens: Callable[[str], int], limit: int) -> int:
    """How many of the first parts fit the limit together, by bisection; 0 if not even the first."""
    fits, too_many = 0, len(parts) + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if count_tokens(between.join(parts[:middle])) <= limit:
            fits = middle
        else:
            too_many = middle
    return fits
