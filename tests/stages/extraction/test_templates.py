"""Contract of the prompt templates."""

from pathlib import Path

import pytest

from unialign.errors import UsageError
from unialign.stages.extraction.templates import TEMPLATES, check_template, read_lines, read_templates


def test_every_set_holds_valid_and_different_templates() -> None:
    assert TEMPLATES["plain"] == ("{}",)
    assert 8 <= len(TEMPLATES["action"]) <= 16
    assert (len(TEMPLATES["clip-kinetics"]), len(TEMPLATES["actionclip"])) == (28, 16)
    assert TEMPLATES["clip-kinetics"][:3] == (
        "a photo of {}.",
        "a photo of a person {}.",
        "a photo of a person using {}.",
    )
    assert TEMPLATES["clip-kinetics"][-1] == "a demonstration of a person practicing {}."
    assert TEMPLATES["actionclip"][7] == "{}"
    for templates in TEMPLATES.values():
        assert len(set(templates)) == len(templates)
        for template in templates:
            assert check_template(template, "set") == template


def test_a_file_gives_its_lines_in_order(tmp_path: Path) -> None:
    path = tmp_path / "templates.txt"
    path.write_bytes("\ufeffa clip of {}\r\n{} – seen from far\n".encode())
    assert read_templates(path) == ("a clip of {}", "{} – seen from far")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no template"),
        (b"a clip\n", r"line 1: .* exactly one"),
        (b"{}\n{} and {}\n", r"line 2: .* exactly one"),
        (b"{}\n{0}\n", r"line 2: .* exactly one"),
        (b"{}\n\na {}\n", r"line 2: .* exactly one"),
        (b"a {} and {name}\n", r"line 1: .* exactly one"),
        (b"a|{}\n", r"line 1: .*separates"),
        (b"a {}\nb {}\n a {}\n", "lines 1 and 3 hold the same"),
        (b"a {}\xff\n", "byte 4 is not UTF-8"),
    ],
)
def test_a_bad_file_is_told_by_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "templates.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as raised:
        read_templates(path)
    assert "templates.txt" in str(raised.value)


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_templates(tmp_path / "none.txt")


def test_lines_keep_rare_separators_inside(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("one\x0cstill one\u2028still\n\ntwo", encoding="utf-8")
    assert read_lines(path) == ["one\x0cstill one\u2028still", "", "two"]
