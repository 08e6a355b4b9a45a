"""Published text encoders: tiny random models of the same classes, compared with transformers called by hand."""

import json

import pytest
import torch

from mocapfree_nb import text
from mocapfree_nb.files import UserError
from mocapfree_nb.text import PublishedTextEncoder, model_folder

PROMPTS = ["a person waves", "someone kneels down on the left knee and then slowly gets up", "a"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    text._load_published.cache_clear()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=24,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    CLIPTextModelWithProjection(config).eval().save_pretrained(folder)
    return folder


def bert_folder(folder, kind):
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel, MPNetConfig, MPNetModel

    torch.manual_seed(0)
    if kind == "distilbert":
        model = DistilBertModel(DistilBertConfig(dim=32, hidden_dim=64, n_layers=2, n_heads=4))
    else:
        size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = MPNetModel(MPNetConfig(vocab_size=30527, **size))
    model.eval().save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder(), local_files_only=True).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_clip_is_its_projection_and_padding_changes_nothing(clip):
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    model, tokenizer = CLIPTextModelWithProjection.from_pretrained(clip), CLIPTokenizer.from_pretrained(clip)
    found = PublishedTextEncoder("clip", clip, max_tokens=22)(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt, truncation=True, max_length=22, return_tensors="pt").input_ids
        output = model(input_ids=ids)
        assert torch.allclose(found.pooled[i], output.text_embeds[0], atol=1e-5)
        assert torch.allclose(found.tokens[i, : ids.shape[1]], output.last_hidden_state[0], atol=1e-5)
        assert found.mask[i].sum() == ids.shape[1] and not found.tokens[i, ids.shape[1] :].any()
    assert found.tokens.shape[1] == 22  # the long caption, cut


@torch.no_grad()
def test_clip_padded_gives_all_states_with_token_zero_behind_the_end(clip):
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    model, tokenizer = CLIPTextModelWithProjection.from_pretrained(clip), CLIPTokenizer.from_pretrained(clip)
    found = PublishedTextEncoder("clip", clip, padded=True)(["a"])
    assert found.tokens.shape == (1, 77, 32) and found.mask.all()
    ids = torch.zeros(1, 77, dtype=torch.long)
    own = tokenizer("a").input_ids
    ids[0, : len(own)] = torch.tensor(own)
    assert torch.allclose(found.tokens, model(input_ids=ids).last_hidden_state, atol=1e-5)


@pytest.mark.parametrize("kind", ["distilbert", "mpnet"])
@torch.no_grad()
def test_bert_states_are_those_of_the_caption_alone(tmp_path, kind):
    from transformers import AutoModel, AutoTokenizer

    folder = bert_folder(tmp_path, kind)
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    encoder = PublishedTextEncoder(kind, folder)
    found = encoder(PROMPTS)
    for i, prompt in enumerate(PROMPTS):
        ids = tokenizer(prompt, return_tensors="pt")
        states = model(input_ids=ids.input_ids, attention_mask=ids.attention_mask).last_hidden_state[0]
        assert torch.allclose(found.tokens[i, : len(states)], states, atol=1e-5)
        mean = torch.nn.functional.normalize(states.mean(0), dim=0)
        assert torch.allclose(found.pooled[i], mean, atol=1e-5)
        assert found.mask[i].sum() == len(states)
    assert torch.equal(encoder(PROMPTS[:1] * 3).pooled, found.pooled[:1].expand(3, -1))


@pytest.mark.parametrize("kind, padded", [("clip", False), ("clip", True), ("distilbert", False), ("mpnet", False)])
def test_a_caption_has_the_same_bits_in_any_company(tmp_path, clip, kind, padded):
    "Else a run that is resumed, and meets its captions in another order, ends with other last digits."
    folder = clip if kind == "clip" else bert_folder(tmp_path, kind)
    crowd = [*PROMPTS, *(f"a person takes {'some few no many'.split()[i % 4]} steps{' and bows' * i}" for i in range(30))]
    together = PublishedTextEncoder(kind, folder, padded=padded)(crowd)
    alone = PublishedTextEncoder(kind, folder, padded=padded)
    for i in (7, 2, 0, 1, 32):
        own = alone([crowd[i]])
        length = int(own.mask.sum())
        assert torch.equal(own.pooled[0], together.pooled[i])
        assert torch.equal(own.tokens[0], together.tokens[i, :length]) and int(together.mask[i].sum()) == length


def test_offline_and_damaged_folders_are_one_line(tmp_path, clip):
    with pytest.raises(UserError, match="no text encoder 'openai/clip-vit-base-patch32' on this machine") as caught:
        PublishedTextEncoder("clip")(["a"])
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text('{"model_type": "distilbert"}')
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match="no text encoder") as caught:
        PublishedTextEncoder("distilbert", tmp_path)(["a"])
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="unknown text encoder 'bert'"):
        PublishedTextEncoder("bert")
    with pytest.raises(UserError, match="prompt 0 is empty"):
        PublishedTextEncoder("clip", clip)([" "])
