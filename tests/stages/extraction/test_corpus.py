"""The corpus of entities: which phrases are found, in what order, and the file that holds them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unialign.errors import UsageError
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.corpus import (
    BODY_PARTS,
    Entity,
    build_corpus,
    entities_text,
    entity_rows,
    label_texts,
    phrases_in,
    read_entities,
    singulars,
    words_of,
)

KNOWN = dict.fromkeys(("tennis", "tennis racket", "racket", "ball", "box", "berry", "glass", "pizza dough"))
HAND = (Entity("hand", "the end of an arm"),)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Hit the tennis ball with a tennis racket!", ["tennis", "ball", "tennis racket"]),
        ("rackets, boxes and berries", ["racket", "box", "berry"]),
        ("PlayTennis", ["tennis"]),
        ("tossing_pizza_dough", ["pizza dough"]),
        ("a glass, two glasses", ["glass", "glass"]),
        ("ballet in a pizza place", []),
        ("", []),
    ],
)
def test_the_longest_phrase_is_taken_and_plurals_are_read(text: str, found: list[str]) -> None:
    assert phrases_in(text, KNOWN, 2) == found


def test_words_and_plurals() -> None:
    assert words_of("ApplyEyeMakeup brush_hair Tai-chi, someone's 50m") == [
        "apply",
        "eye",
        "makeup",
        "brush",
        "hair",
        "tai",
        "chi",
        "someone's",
        "50m",
    ]
    assert singulars("berries") == ["berry", "berrie", "berri"]
    assert singulars("boxes") == ["boxe", "box"]
    assert singulars("grass") == singulars("bus") == []


def test_entities_come_in_order_once_with_all_places_and_body_parts_at_the_end() -> None:
    texts = {
        "first": [("playing tennis", "playing tennis"), ("hand ball", "hand ball")],
        "second": [("tennis", "tennis"), ("tennis", "one needs a ball and a racket for tennis")],
    }
    words = [
        (Entity("Tennis", "a game"), Entity("ball")),
        (Entity("tennis", "another game"), Entity("ball", "a round thing"), Entity("racket"), Entity("violin")),
    ]
    corpus = build_corpus(texts, words, (*HAND, Entity("knee", "a joint")))
    assert corpus == (
        Entity("tennis", "a game", ("first: playing tennis", "second: tennis")),
        Entity("hand", "the end of an arm", ("first: hand ball", "body parts")),
        Entity("ball", "a round thing", ("first: hand ball", "second: tennis")),
        Entity("racket", "", ("second: tennis",)),
        Entity("knee", "a joint", ("body parts",)),
    )
    assert [row.text for row in entity_rows(corpus)][:1] == ["tennis: a game"]
    assert entity_rows(corpus)[3] == Source("entity|racket", text="racket")


def test_body_parts_are_always_there() -> None:
    corpus = build_corpus({"x": [("tennis", "tennis")]}, [(Entity("tennis"),)])
    assert [each.name for each in corpus] == ["tennis", *(part.name for part in BODY_PARTS)]
    assert len({part.name for part in BODY_PARTS}) == len(BODY_PARTS)
    assert all(part.description and part.provenance == ("body parts",) for part in BODY_PARTS)


def test_words_that_fit_nothing_are_an_error() -> None:
    with pytest.raises(UsageError, match="no label or description holds any of the 2 words"):
        build_corpus({"x": [("singing", "singing")]}, [(Entity("tennis"),)], HAND)
    with pytest.raises(UsageError, match="'--' has no letters"):
        build_corpus({"x": [("tennis", "tennis")]}, [(Entity("--"),)])


def test_a_file_of_entities_is_read_back(tmp_path: Path) -> None:
    corpus = build_corpus({"x; y": [("tennis", "tennis ball")]}, [(Entity("tennis", "a game"), Entity("ball"))])
    path = tmp_path / "entities.tsv"
    path.write_text(entities_text(corpus), encoding="utf-8")
    assert read_entities(path) == corpus
    path.write_text("tennis\nball\ta round  thing\n", encoding="utf-8")
    assert read_entities(path) == (Entity("tennis"), Entity("ball", "a round thing"))


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=6))
def test_any_text_is_cut_into_words_and_survives(texts: list[str]) -> None:
    for text in texts:
        assert all(word and word == word.strip() and "|" not in word and "\t" not in word for word in words_of(text))
        assert phrases_in(text, {}, 0) == []
        known = dict.fromkeys(words_of(text))
        assert phrases_in(text, known, 1) == words_of(text)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "holds no entity"),
        ("ball\n\n", "line 2 is not `name`"),
        ("\tdescription\n", "line 1 is not `name`"),
        ("a|b\tx\n", "with a name without '|'"),
        ("ball\tx\ty\tz\n", "line 1 is not"),
        ("ball\nracket\nball\tx\n", "lines 1 and 3 both hold 'ball'"),
    ],
)
def test_a_bad_file_of_entities_is_told(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "entities.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=told):
        read_entities(path)


def test_labels_come_with_their_descriptions(tmp_path: Path) -> None:
    labels, descriptions = tmp_path / "labels.txt", tmp_path / "descriptions.txt"
    labels.write_text("play tennis\ncook\n")
    descriptions.write_text("a racket hits a ball\tit is a game\n\n")
    assert label_texts(labels) == (("play tennis", "play tennis"), ("cook", "cook"))
    assert label_texts(labels, descriptions) == (
        ("play tennis", "play tennis"),
        ("play tennis", "a racket hits a ball"),
        ("play tennis", "it is a game"),
        ("cook", "cook"),
    )
    descriptions.write_text("one line\n")
    with pytest.raises(UsageError, match="has 1 lines for 2 labels"):
        label_texts(labels, descriptions)
    labels.write_text("a\n\nb\n")
    with pytest.raises(UsageError, match="line 2 is blank"):
        label_texts(labels)
    labels.write_text("")
    with pytest.raises(UsageError, match="the file is empty"):
        label_texts(labels)
    with pytest.raises(UsageError, match="cannot be read"):
        label_texts(tmp_path / "absent.txt")
