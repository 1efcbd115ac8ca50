"""Prompt templates: sentences with one `{}` for the name of a class."""

from pathlib import Path

from unialign.errors import UsageError

_HOW = ("", "using ", "doing ", "during ", "performing ", "practicing ")

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    # Wording of this project. ART and UniAlign refine banks of about this size, one row per (template, class);
    # averaging them per class is done in stage two, so that the choice costs no extraction.
    "action": (
        "a video of a person who is doing: {}",
        "a photo of somebody during the action {}",
        "one frame of a clip that shows {}",
        "this clip shows the action {}",
        "the person in this video does the following: {}",
        "human action: {}",
        "a recording of the movement {}",
        "a body in motion, performing {}",
        "in the video, one can see {}",
        "an example of {}",
        "people filmed while doing {}",
        "{}, filmed from the start to the end",
    ),
    # CLIP's ensemble for Kinetics-700, data/prompts.md of openai/CLIP, in its spelling.
    "clip-kinetics": tuple(
        f"a {kind} of {who}{{}}."
        for kind in ("photo", "video", "example", "demonstration")
        for who in ("", *(f"a person {how}" for how in _HOW))
    ),
    # The prompts of ActionCLIP (sallymmx/ActionCLIP), which papers on CLIP and Kinetics mostly take.
    "actionclip": (
        "a photo of action {}",
        "a picture of action {}",
        "Human action of {}",
        "{}, an action",
        "{} this is an action",
        "{}, a video of action",
        "Playing action of {}",
        "{}",
        "Playing a kind of action, {}",
        "Doing a kind of action, {}",
        "Look, the human is {}",
        "Can you recognize the action of {}?",
        "Video classification of {}",
        "A video of {}",
        "The man is {}",
        "The woman is {}",
    ),
}


def check_template(template: str, where: str) -> str:
    """The template itself, if it contains exactly one `{}`.

    Other braces and `|` are rejected: the former look like a placeholder that is never filled, the latter separates the
    parts of a row's id. Raises `UsageError`, whose message begins with `where`.
    """
    if template.count("{}") != 1 or template.count("{") != 1 or template.count("}") != 1:
        raise UsageError(f"{where}: the template {template!r} must hold exactly one {{}} and no other braces.")
    if "|" in template:
        raise UsageError(f"{where}: the template {template!r} holds a '|', which separates the parts of a row's id.")
    return template


def read_templates(path: Path) -> tuple[str, ...]:
    """The templates in a UTF-8 text file, one per line, in file order.

    Raises `UsageError` for a file that cannot be read or is empty, and for a line that is blank, does not contain
    exactly one `{}`, or is repeated.
    """
    lines = read_lines(path)
    if not lines:
        raise UsageError(f"{path}: the file holds no template; write one per line, each with one {{}} for the class.")
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        template = check_template(line.strip(), f"{path}, line {number}")
        if template in seen:
            raise UsageError(f"{path}: lines {seen[template]} and {number} hold the same template; remove one.")
        seen[template] = number
    return tuple(seen)


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file without line ends (the last line may lack one). Raises `UsageError` if unreadable."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); give a text file.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text.") from error
    # Not splitlines(): that also splits at form feeds and other rare characters inside a sentence.
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
