"""Learned prompts in frozen towers: the definition literally, OpenCLIP's own rows without them, and what is trained."""

from typing import Any

import open_clip
import pytest
import torch
from open_clip import factory
from open_clip.transformer import TextTransformer, VisionTransformer
from torch import Tensor, nn

from unialign.errors import UsageError
from unialign.stages.models.clip.image_tower import ClipTower
from unialign.stages.models.clip.prompts import PromptedTexts, Words
from unialign.stages.models.clip.text_tower import load_text, text_transformer, token_ids
from unialign.stages.models.clip.tome import attention

TEXTS = ("diving", "a person who is diving backwards", "vault")
CLIP: dict[str, Any] = {
    "embed_dim": 6,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3},
}


def _clip() -> Any:
    torch.manual_seed(3)
    return factory.CLIP(**CLIP).eval()


def _texts(clip: Any, num_prompts: int, words: Words) -> PromptedTexts:
    network = TextTransformer(output_dim=6, **CLIP["text_cfg"])
    load_text(network, clip.state_dict())
    made = PromptedTexts(network=network, words=words, num_prompts=num_prompts)
    for prompts in made.prompts:
        nn.init.normal_(prompts, std=0.5)
    return made.eval()


def _ids(room: int = 0) -> Tensor:
    return token_ids("ViT-B-16", TEXTS, room)


@torch.no_grad()
def test_without_prompts_rows_are_those_of_openclip() -> None:
    clip = _clip()
    expected = clip.encode_text(open_clip.get_tokenizer("ViT-B-16")(list(TEXTS), context_length=24), normalize=True)
    labels, entities = _texts(clip, 0, Words(_ids()[None], _ids()))()
    assert entities is not None
    torch.testing.assert_close(labels, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(entities, expected, rtol=0, atol=1e-5)


def test_texts_follow_the_definition() -> None:
    num_prompts = 4
    made = _texts(_clip(), num_prompts, Words(_ids()[None])).double()
    network: Any = made.network
    for row, ids in zip(made.embed(_ids()), _ids(), strict=True):
        ids = ids[: int(ids.argmax()) + 1]  # one text alone, without padding
        words = network.token_embedding(ids)
        places = network.positional_embedding
        start, rest = words[:1] + places[:1], words[1:] + places[1 + num_prompts : num_prompts + len(ids)]
        for block, prompts in zip(network.transformer.resblocks, made.prompts, strict=True):
            x = torch.cat([start, prompts, rest])
            below = torch.ones(len(x), len(x)).tril().bool()
            normed = block.ln_1(x)[None]
            x = x + block.attn(normed, normed, normed, attn_mask=~below)[0][0]
            x = x + block.mlp(block.ln_2(x))
            start, rest = x[:1], x[1 + num_prompts :]
        end = network.ln_final(rest[-1]) @ network.text_projection
        torch.testing.assert_close(row, end / end.norm(), rtol=0, atol=1e-10)


def _tower(seed: int = 0, **settings: Any) -> ClipTower:
    torch.manual_seed(seed)
    network = VisionTransformer(32, 8, 16, 3, 2, 2.0, output_dim=6)
    tower = ClipTower(network=network, layer=-1, projection="none", **settings).eval()
    for prompts in tower.prompts:
        nn.init.normal_(prompts, std=0.5)
    return tower


def test_images_follow_the_definition() -> None:
    tower = _tower(num_pairs=0, num_prompts=2).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    network: Any = tower.network
    patches = network.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([network.class_embedding.expand(2, 1, -1), patches], dim=1) + network.positional_embedding
    x = network.ln_pre(x)
    for block, prompts in zip(network.transformer.resblocks, tower.prompts, strict=True):
        x = block(torch.cat([x, prompts.expand(2, -1, -1)], dim=1))[:, :17]
    torch.testing.assert_close(tower(images)["tokens"], x, rtol=0, atol=1e-10)


def test_merged_tokens_weigh_as_their_patches_and_a_prompt_as_one() -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, batch_first=True).double()
    tokens, others = torch.randn(3, 5, 8, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)
    sizes = torch.randint(1, 9, (3, 5, 1)).double()
    found, keys = attention(module, tokens, sizes, others)
    for image in range(3):
        # A token of size s counts as s of them side by side.
        seen = torch.cat([tokens[image].repeat_interleave(sizes[image, :, 0].long(), dim=0), others])
        torch.testing.assert_close(found[image], module(tokens[image], seen, seen)[0], rtol=0, atol=1e-10)
    alone = attention(module, tokens, sizes)[1]
    torch.testing.assert_close(keys, alone)


def test_prompts_are_no_regions() -> None:
    made = _tower(num_pairs=3, num_prompts=2)(torch.randn(2, 3, 32, 32))
    assert made["tokens"].shape == (2, 17 - 3 * 3, 16)
    assert made["owners"].shape == (2, 17)


def test_only_prompts_are_trained_and_b_16_has_the_printed_number() -> None:
    with torch.device("meta"):
        network = VisionTransformer(224, 16, 768, 12, 12, 4.0, output_dim=512)
        tower = ClipTower(network=network, layer=-1, num_prompts=10)
        words = Words(torch.zeros(1, 400, 12, dtype=torch.int64))
        texts = PromptedTexts(network=text_transformer("ViT-B-16"), words=words, num_prompts=10)
    trained = [value.numel() for each in (tower, texts) for value in each.parameters() if value.requires_grad]
    assert sum(trained) == 153_600  # 0.15 M
    assert len(trained) == 24


@torch.no_grad()
def test_in_evaluation_texts_are_embedded_once_for_each_change_of_mode() -> None:
    made = _texts(_clip(), 2, Words(_ids()[None]))
    first = made()[0]
    nn.init.normal_(made.prompts[0], std=2.0)
    assert made()[0] is first
    made.train()
    assert not torch.allclose(made()[0], first)
    assert made()[0] is not made()[0]
    assert not torch.allclose(made.eval()()[0], first)


def test_labels_are_the_mean_over_their_prompts() -> None:
    made = _texts(_clip(), 2, Words(torch.stack([_ids(), _ids().flip(0)])))
    rows = made.embed(_ids())
    mean = (rows + rows.flip(0)) / 2
    torch.testing.assert_close(made()[0], mean / mean.norm(dim=-1, keepdim=True))


def test_weights_are_found_in_both_layouts_and_nowhere_else() -> None:
    clip = _clip()
    state = clip.state_dict()
    other = {
        ("text." + key if not key.startswith(("visual.", "logit")) else key): value for key, value in state.items()
    }
    for each in (state, other):
        network = TextTransformer(output_dim=6, **CLIP["text_cfg"])
        load_text(network, each)
        assert torch.equal(network.token_embedding.weight, clip.token_embedding.weight)
    with pytest.raises(UsageError, match=r"do not fit the text tower: .* missing \(.*Give weights of this network"):
        load_text(TextTransformer(output_dim=6, **CLIP["text_cfg"]), clip.visual.state_dict())


def test_token_ids_are_those_of_openclip_and_never_cut() -> None:
    ids = _ids(room=10)
    expected = open_clip.get_tokenizer("ViT-B-16")(list(TEXTS))
    assert torch.equal(ids, expected[:, : ids.shape[1]])
    assert not expected[:, ids.shape[1] :].any()
    text = "one " * 66
    assert token_ids("ViT-B-16", [text], 9).shape == (1, 68)
    with pytest.raises(UsageError, match=r"has 68 tokens, but ViT-B-16 reads 77 and 10 of them are learned prompts"):
        token_ids("ViT-B-16", [text], 10)


@pytest.mark.parametrize(
    ("name", "told"), [("ViT-Z", "OpenCLIP has no network 'ViT-Z'"), ("ViT-B-16-SigLIP", "is not CLIP's own")]
)
def test_networks_that_do_not_read_as_clip_does_are_told(name: str, told: str) -> None:
    for use in (text_transformer, lambda name: token_ids(name, TEXTS, 0)):
        with pytest.raises(UsageError, match=told):
            use(name)
