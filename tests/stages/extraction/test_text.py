"""Contract of the text modality, on the real MiniLM network of its package."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unialign.errors import CorruptInput, StaleCache, UsageError
from unialign.pipeline.training.text_bank_start import closest_pairs
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.templates import TEMPLATES
from unialign.stages.extraction.text import (
    TextEmbeddings,
    description_id,
    label_id,
    read_descriptions,
    text_extractor,
    text_rows,
    unit_rows,
)
from unialign.stages.extraction.text_network import BATCH, TextEncoder
from unialign.stages.extraction.text_windows import windows

LONG = " ".join(["one two three four five six"] * 100)  # 600 words of one token each


@pytest.fixture(scope="module")
def minilm() -> TextEmbeddings:
    return text_extractor("minilm", device="cpu")


def embed(extractor: TextEmbeddings, sources: list[Source] | tuple[Source, ...]) -> np.ndarray:
    outcomes = list(extractor.run(sources))
    assert [outcome.status for outcome in outcomes] == ["ok"] * len(sources)
    return np.stack([outcome.arrays["embedding"] for outcome in outcomes])


def texts(*sentences: str) -> tuple[Source, ...]:
    return tuple(Source(f"t{index}", text=sentence) for index, sentence in enumerate(sentences))


def test_one_row_per_template_and_class_and_per_description() -> None:
    rows = text_rows(["sit down", "stand up"], ["{}", "a clip of {}."], [["slowly"], ["at once", "with help"]])
    assert [(row.id, row.text) for row in rows] == [
        ("label|{}|sit down", "sit down"),
        ("label|{}|stand up", "stand up"),
        ("label|a clip of {}.|sit down", "a clip of sit down."),
        ("label|a clip of {}.|stand up", "a clip of stand up."),
        ("description|0|sit down", "slowly"),
        ("description|0|stand up", "at once"),
        ("description|1|stand up", "with help"),
    ]
    assert rows[2].id == label_id("a clip of {}.", "sit down")
    assert rows[6].id == description_id(1, "stand up")
    assert len(text_rows([str(n) for n in range(60)], TEMPLATES["action"])) == 60 * len(TEMPLATES["action"])


def test_braces_in_a_class_name_stay() -> None:
    assert text_rows(["jump {twice}"], ["a {}"])[0].text == "a jump {twice}"


@pytest.mark.parametrize(
    ("classes", "templates", "descriptions", "message"),
    [
        (["run", "sit", "run"], ["{}"], [], "classes 0 and 2 are both named 'run'"),
        (["run", " "], ["{}"], [], "class 1 is named ' '"),
        (["run|sit"], ["{}"], [], "contain '|'"),
        (["run"], ["no place"], [], "exactly one"),
        (["run"], ["{}", "{}"], [], "is repeated"),
        (["run", "sit"], ["{}"], [["only one"]], "descriptions for 1 classes, but 2 classes"),
        (["run"], ["{}"], [["good", " "]], "description 1 of class 'run' is blank"),
    ],
)
def test_bad_rows_are_rejected(
    classes: list[str], templates: list[str], descriptions: list[list[str]], message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        text_rows(classes, templates, descriptions)
    assert message in str(raised.value)


def test_descriptions_are_read_by_line_and_tab(tmp_path: Path) -> None:
    path = tmp_path / "des.txt"
    path.write_text("first\tsecond \nonly", encoding="utf-8")
    assert read_descriptions(path, 2) == (("first", "second"), ("only",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\n", "has 2 lines, but the dataset has 3 classes"),
        ("a\n \nc\n", "line 2 of 3 is blank"),
        ("a\nb\t\nc\n", "line 2 of 3 has a blank part"),
    ],
)
def test_bad_descriptions_are_told_with_numbers(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "des.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        read_descriptions(path, 3)


def test_like_actions_are_closer_than_others(minilm: TextEmbeddings) -> None:
    drink, sip, kick = embed(minilm, text_rows(["drink water", "sip from a bottle", "kick a ball"], ["{}"]))
    assert drink @ sip > drink @ kick + 0.1
    assert drink @ sip > sip @ kick + 0.1


def test_rows_match_the_specification(minilm: TextEmbeddings) -> None:
    (spec,) = minilm.arrays()
    assert (spec.name, spec.dtype, spec.shape, spec.dims, spec.ragged) == (
        "embedding", "float32", (384,), ("channel",), False,
    )  # fmt: skip
    (outcome,) = minilm.run(texts("wave"))
    row = outcome.arrays["embedding"]
    assert row.dtype == np.float32
    assert row.shape == spec.shape
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-6)
    assert outcome.source == f"sha256:{sha256(b'wave').hexdigest()}"
    assert outcome.detail == {"tokens": 3, "windows": 1}


def test_rows_do_not_depend_on_their_neighbors(minilm: TextEmbeddings) -> None:
    sources = texts("clap", "a person brushes the teeth for a long time in a bathroom", "sit down", LONG[:400])
    together = embed(minilm, sources)
    assert np.array_equal(embed(minilm, sources[::-1])[::-1], together)
    for source, row in zip(sources, together, strict=True):
        assert np.array_equal(embed(minilm, [source])[0], row)


def test_long_text_is_rejected_by_name_and_count_before_any_row(minilm: TextEmbeddings) -> None:
    sources = (*texts("short"), Source("description|0|juggle", text=LONG), Source("other", text=LONG))
    for refuse in (lambda: minilm.check(sources), lambda: next(minilm.run(sources))):
        with pytest.raises(UsageError) as raised:
            refuse()
        message = str(raised.value)
        assert "'description|0|juggle' has 602 tokens" in message
        assert "at most 256" in message
        assert "1 more" in message
        assert "--long-text windows" in message


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (("wave", "踢足球"), "has no tokens for"),
        (("wave", "💃🕺"), "has no tokens for 100% of the name"),
        (("မြန်မာ", "wave"), "has no tokens for"),
        (("wave", "Wáve"), "the classes 'wave' and 'Wáve' look the same to"),
        (("दौड़ना", "wave", "दौड़ी"), "look the same to|has no tokens"),
    ],
)
def test_class_names_that_it_cannot_read_are_rejected_before_any_row(
    minilm: TextEmbeddings, names: tuple[str, ...], problem: str
) -> None:
    for rows in (text_rows(names, ["{}", "a person doing {}"]), text_rows(names, ["a video of {}"])):
        with pytest.raises(UsageError, match=problem):
            minilm.check(rows)


@pytest.mark.parametrize(
    "names", [("wave", "wave left"), ("plié", "pirouette"), ("tai chi", "yo yo"), ("jump 1", "jump 2"), ("CPR", "BMX")]
)
def test_class_names_that_differ_pass(
    minilm: TextEmbeddings, names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    minilm.check(text_rows(names, ["{}"]))
    assert not caplog.messages


def test_names_that_it_only_spells_are_told(minilm: TextEmbeddings, caplog: pytest.LogCaptureFixture) -> None:
    minilm.check(text_rows(["кататься", "прыгать", "wave"], ["{}"]))
    (message,) = caplog.messages
    assert "reads 2 of 3 class names letter by letter (кататься)" in message


def test_the_limit_is_exact(minilm: TextEmbeddings) -> None:
    network = minilm._network()
    fits = " ".join(["run"] * 254)  # and two special tokens
    assert network.count_tokens(fits) == network.max_tokens == 256
    minilm.check(texts(fits))
    with pytest.raises(UsageError, match="257 tokens"):
        minilm.check(texts(fits + " run"))


def test_long_text_is_pooled_over_windows_by_choice(minilm: TextEmbeddings) -> None:
    pooled = replace(minilm, long_text="windows")
    (outcome,) = pooled.run(texts(LONG))
    assert outcome.detail == {"tokens": 602, "windows": 3}
    network = minilm._network()
    pieces = windows(LONG, network.count_tokens, network.max_tokens)
    mean = unit_rows(network.encode(pieces)).mean(axis=0)
    np.testing.assert_allclose(outcome.arrays["embedding"], mean / np.linalg.norm(mean), atol=1e-6)
    short = texts("clap")
    assert np.array_equal(embed(pooled, short), embed(minilm, short))
    pooled.check(texts(LONG))


def test_texts_that_differ_only_at_the_end_give_different_rows(minilm: TextEmbeddings) -> None:
    pooled = replace(minilm, long_text="windows")
    first, second = embed(pooled, texts(LONG + " with the left hand", LONG + " with both feet"))
    assert np.abs(first - second).max() > 1e-3


def test_a_blank_text_is_a_status_and_the_rest_goes_on(minilm: TextEmbeddings) -> None:
    outcomes = list(minilm.run(texts("run", "  ", "sit")))
    assert [outcome.status for outcome in outcomes] == ["ok", "unreadable", "ok"]
    assert outcomes[1].arrays == {}


def test_ntu_descriptions_embed(minilm: TextEmbeddings, shared_data: Path) -> None:
    descriptions = read_descriptions(shared_data / "text" / "smie" / "ntu60_des.txt", 60)
    classes = [f"A{number:03d}" for number in range(1, 61)]
    sources = text_rows(classes, [], descriptions)
    rows = embed(minilm, sources)
    assert rows.shape == (60, 384)
    assert np.isfinite(rows).all()
    assert len(np.unique(rows, axis=0)) == 60
    pairs = closest_pairs([source.id for source in sources], rows, count=5)
    assert pairs[0][2] < 0.999
    assert pairs[0][:2] == ("A031", "A054")  # point to something, point at the other person


def test_key_changes_with_what_decides_the_bytes_and_not_with_where(minilm: TextEmbeddings) -> None:
    assert minilm.key()["weights"] == "sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    for other in (replace(minilm, long_text="windows"), replace(minilm, normalise=False)):
        assert other.key() != minilm.key()
    assert replace(minilm, weights=Path("elsewhere"), device="cuda:1").key() == minilm.key()
    assert str(minilm.weights) not in repr(minilm.key())
    assert {"torch", "tokenizers", "transformers"} <= set(minilm.key()["libraries"])


def test_attributes_say_that_it_is_no_vision_language_model(minilm: TextEmbeddings) -> None:
    assert "not a vision-language model" in minilm.attributes()["encoder"]
    assert minilm.attributes()["licence"] == "apache-2.0"


def test_extractor_travels_to_workers(minilm: TextEmbeddings) -> None:
    assert pickle.loads(pickle.dumps(minilm)) == minilm


def test_weights_that_changed_after_planning_are_rejected(minilm: TextEmbeddings) -> None:
    with pytest.raises(StaleCache, match="not those"):
        next(replace(minilm, weights_digest="sha256:0").run(texts("run")))


def test_rows_that_are_not_finite_are_rejected(minilm: TextEmbeddings, monkeypatch: pytest.MonkeyPatch) -> None:
    row = np.zeros(384, dtype=np.float32)
    broken = replace(minilm._network(), embed=lambda text: row)
    monkeypatch.setattr(TextEmbeddings, "_network", lambda extractor: broken)
    for bad in (0.0, np.nan, np.inf):
        row[5] = bad
        with pytest.raises(CorruptInput, match="not finite"):
            next(minilm.run(texts("run")))


def test_unnormalized_rows_are_the_networks_own(minilm: TextEmbeddings) -> None:
    network = minilm._network()
    scaled: TextEncoder = replace(network, embed=lambda text: 3 * network.embed(text))
    rows = TextEmbeddings._row(replace(minilm, normalise=False), scaled.encode(["run"]))
    assert np.array_equal(rows, 3 * network.embed("run"))


def test_unknown_choices_are_told() -> None:
    with pytest.raises(UsageError, match="choose one of minilm, openclip, sentence"):
        text_extractor("glove")
    with pytest.raises(UsageError, match="error or windows"):
        text_extractor("minilm", long_text="cut")


def words_and_pieces(text: str) -> int:
    """A counting rule like a tokenizer's: one token per three letters of a word, and two special ones."""
    return 2 + sum(-(-len(word) // 3) for word in text.split())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abcdefgh", min_size=1, max_size=14), min_size=1, max_size=30), st.integers(4, 12))
def test_windows_keep_every_character_in_order_and_fit(words: list[str], limit: int) -> None:
    text = " ".join(words)
    pieces = windows(text, words_and_pieces, limit)
    assert all(piece and words_and_pieces(piece) <= limit for piece in pieces)
    assert "".join(pieces).replace(" ", "") == "".join(words)
    if words_and_pieces(text) <= limit:
        assert pieces == [text]
    if all(words_and_pieces(word) <= limit for word in words):
        assert " ".join(pieces) == text  # no word was cut


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 60), st.integers(4, 12))
def test_windows_are_as_few_and_as_even_as_possible(num_words: int, limit: int) -> None:
    pieces = windows(" ".join(["abc"] * num_words), words_and_pieces, limit)
    sizes = [len(piece.split()) for piece in pieces]
    assert len(sizes) == -(-num_words // (limit - 2))
    assert max(sizes) == -(-num_words // len(sizes))


def test_windows_that_cannot_fit_are_rejected() -> None:
    with pytest.raises(UsageError, match="one character"):
        windows("abc def", lambda text: 10 * len(text), 5)


def counted(network: TextEncoder, shift: float = 0.0) -> tuple[TextEncoder, list[int]]:
    """The network, and how many texts each of its calls gets; shift: added to the rows of batches."""
    calls: list[int] = []
    assert network.embed_all is not None
    together, alone = network.embed_all, network.embed

    def embed_all(texts: Sequence[str]) -> np.ndarray:
        calls.append(len(texts))
        return together(texts) + np.float32(shift)

    def embed(text: str) -> np.ndarray:
        calls.append(1)
        return alone(text)

    return replace(network, embed=embed, embed_all=embed_all), calls


DEEDS = ("throwing", "catching", "kicking", "holding", "hiding", "dropping", "turning", "taking", "passing", "pushing")
SENTENCES = [f"a {size} person is {deed} the ball" for size in ("tall", "short", "young") for deed in DEEDS]


def test_texts_of_one_length_share_calls_and_get_the_bits_that_they_get_alone(minilm: TextEmbeddings) -> None:
    network = minilm._network()
    alone = np.stack([network.embed(text) for text in SENTENCES])
    counting, calls = counted(network)
    assert len({network.count_tokens(text) for text in SENTENCES}) == 1
    assert np.array_equal(counting.encode(SENTENCES), alone)
    # The first batch is computed both ways; the others together, always with as many texts.
    assert calls == [1] * BATCH + [BATCH, BATCH]
    calls.clear()
    assert np.array_equal(counting.encode(SENTENCES[:3][::-1]), alone[:3][::-1])
    assert calls == [BATCH]


def test_where_a_batch_has_other_bits_each_text_goes_alone(minilm: TextEmbeddings) -> None:
    network = minilm._network()
    other, calls = counted(network, shift=1e-6)
    rows = other.encode(SENTENCES)
    assert np.array_equal(rows, np.stack([network.embed(text) for text in SENTENCES]))
    assert calls == [1] * BATCH + [BATCH] + [1] * (len(SENTENCES) - BATCH)


def test_rows_keep_the_order_of_texts_of_mixed_lengths(minilm: TextEmbeddings) -> None:
    mixed = [text for pair in zip(SENTENCES, [text.split()[3] for text in SENTENCES], strict=True) for text in pair]
    rows = embed(minilm, texts(*mixed))
    for place in (0, 1, 33, 40):
        assert np.array_equal(rows[place], embed(minilm, texts(mixed[place]))[0])
