"""Class names as a person would say them, from folder names, labels of a CSV and lists of names."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from unialign.errors import UsageError
from unialign.stages.datasets.scan import looks

UNNAMED = "classes have no names, so texts would say no more than 'class 0'; give --labels FILE, one name per line"

_NUMBERED = re.compile(r"(\d+)[\s,:.)]+(\S.*)")


def spoken_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The names in their order: "take_off" becomes "take off", "ApplyEyeMakeup" becomes "apply eye makeup".

    Underscores become spaces. A name without spaces whose words are capitalized is split before each capital and each
    number, in lower case except for abbreviations ("CPRTraining" becomes "CPR training"); if one name of a list is
    written this way, its capitalized single words are lowercased too. Brackets around a placeholder ("[something]") are
    removed. Raises `UsageError` beginning with `where` for an empty name, for control characters, and for two that
    differ only in what is changed here, in case, in the Unicode form of a letter, in invisible characters, or in
    leading zeros of a number.
    """
    camel = any(_is_camel(word) for name in names if " " not in name for word in name.split("_"))
    known: dict[str, str] = {}
    spoken = []
    for name in names:
        words = " ".join(re.sub(r"\[([^\[\]]+)\]", r"\1", name).replace("_", " ").split())
        if camel and " " not in name:
            words = " ".join(_lower(part) for word in words.split() for part in _parts(word))
        if not words:
            raise UsageError(f"{where}: the class {name!r} has no letters; rename it.")
        if any(unicodedata.category(letter) in {"Cc", "Cs"} for letter in words):
            raise UsageError(f"{where}: the class {name[:80]!a} holds a control character or bytes that are no text.")
        seen = looks(words)
        # 1 and 01 are the same number.
        other = known.setdefault((seen.lstrip("0") or "0") if seen.isdecimal() else seen, name)
        if other != name:
            raise UsageError(f"{where}: the classes {other!r} and {name!r} read the same; rename one.")
        spoken.append(words)
    return tuple(spoken)


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names in a UTF-8 text file, one per line in label order, normalized by `spoken_names`.

    If every line begins with its number, counted from 0 or 1 (as in UCF101's classInd.txt), the number is dropped.
    Raises `UsageError` for a file that cannot be read, has no names, or has such numbers in another order, and as
    `spoken_names` does.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text; give one class name a line.") from error
    if not lines:
        raise UsageError(f"{path}: holds no class names; give one per line.")
    numbered = [_NUMBERED.fullmatch(line) for line in lines]
    numbers = [int(match[1]) for match in numbered if match]
    counted = (list(range(len(lines))), list(range(1, len(lines) + 1)))
    if numbers not in counted and sorted(numbers) in counted:
        raise UsageError(
            f"{path}: its lines begin with numbers that are not in order; sort them in label order, or leave the "
            "numbers out."
        )
    if numbers in counted:
        lines = [match[2] for match in numbered if match]
    twice = _twice(lines)
    if twice is not None:
        raise UsageError(f"{path}: the class name {twice!r} occurs twice; give each class its own.")
    return spoken_names(lines, str(path))


def _twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


def _is_camel(word: str) -> bool:
    return not word[:1].islower() and any(first.islower() and then.isupper() for first, then in pairwise(word))


def _parts(word: str) -> list[str]:
    """The word split before each capital that begins a word, and around numbers; "3D" and "v2" stay whole."""
    if word[:1].islower():
        return [word]
    cuts = [0]
    for at in range(1, len(word)):
        before, here = word[at - 1], word[at]
        begins = here.isupper() and (before.islower() or (word[at + 1 : at + 2].islower() and before.isupper()))
        counts = here.isdigit() and before.isalpha()
        counted = before.isdigit() and here.isupper() and word[at + 1 : at + 2].islower()
        if begins or counts or counted:
            cuts.append(at)
    return [word[start:end] for start, end in zip(cuts, [*cuts[1:], len(word)], strict=True)]


def _lower(word: str) -> str:
    # Words that begin with a small letter ("iPhone") are kept as they are.
    return word if word[:1].islower() or (len(word) > 1 and word.isupper()) else word.lower()
