"""Corpus: splits without leaks, folders of any condition, leaving out completely."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mocapfree_nb import corpus as corpus_module
from mocapfree_nb.corpus import Clip, Corpus, assign_splits, collate, load_corpus, more_training_clips, statistics
from mocapfree_nb.data.captions import parse_captions
from mocapfree_nb.features import FEATURE_GROUPS, features_to_joints, joints_to_features, to_origin
from mocapfree_nb.files import UserError
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML
from mocapfree_nb.sources import SPLITS, features_in_batches

BANDAI = Path(__file__).parents[2] / "shared" / "data" / "bandai_h3d"
needs_bandai = pytest.mark.skipif(not BANDAI.is_dir(), reason="the real clips are not here")


@pytest.fixture(scope="module")
def made():
    return generate_clips(300, seed=3)


@pytest.fixture(scope="module")
def built_in():
    return load_corpus("procedural", num_clips=300, seed=3)


def _joints(made, i):
    return np.asarray(made.joints[i, : made.lengths[i]])


@pytest.fixture
def folder(tmp_path, made):
    """12 sound clips in the HumanML3D layout: joints for all, features for the first two."""
    for part in ("new_joints", "new_joint_vecs", "texts"):
        (tmp_path / part).mkdir()
    for i in range(12):
        np.save(tmp_path / f"new_joints/{i:03d}.npy", _joints(made, i))
        lines = [f"{caption}#a/DET#0.0#0.0\n" for caption in made.captions[i]]
        (tmp_path / f"texts/{i:03d}.txt").write_text("".join(lines))
    for i in range(2):
        rows = np.random.default_rng(i).normal(size=(30 + i, 263)).astype(np.float32)
        np.save(tmp_path / f"new_joint_vecs/{i:03d}.npy", rows)
    names = [f"{i:03d}" for i in range(12)]
    for split, part in zip(SPLITS, (names[:8], names[8:10], names[10:]), strict=True):
        (tmp_path / f"{split}.txt").write_text("\n".join(part) + "\n")
    return tmp_path


def _load_quietly(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_corpus(folder, **options)


# --- the built-in corpus -------------------------------------------------------------------------------


def test_features_are_those_of_each_clip_alone(made, built_in):
    for i in (0, 7, 100, 299):
        alone = joints_to_features(_joints(made, i), sign_continuity=True).numpy()
        assert built_in[i].features.shape == alone.shape == (made.lengths[i] - 1, 263)
        assert np.abs(built_in[i].features - alone).max() < 1e-5
        assert built_in[i].actions == tuple(made.actions[i])


def test_a_path_stays_whole_where_the_heading_passes_half_a_turn(made):
    joints = torch.from_numpy(_joints(made, 5)[:1].repeat(240, 0)).double()  # one pose, turned and moved
    angle = torch.linspace(0, 2.5 * np.pi, len(joints), dtype=torch.float64)
    turn = torch.zeros(len(joints), 3, 3, dtype=torch.float64)
    turn[:, 0, 0] = turn[:, 2, 2] = angle.cos()
    turn[:, 0, 2], turn[:, 2, 0], turn[:, 1, 1] = angle.sin(), -angle.sin(), 1
    joints = torch.einsum("tij,tkj->tki", turn, joints)
    joints[..., 2] += torch.linspace(0, 2, len(joints))[:, None]  # and walks on
    (features,) = features_in_batches([joints.numpy()], HUMANML3D)
    recovered = features_to_joints(features)
    assert (recovered - to_origin(joints)[:-1]).abs().max() < 1e-3


def test_same_seed_same_corpus(built_in):
    again = load_corpus("procedural", num_clips=300, seed=3)
    other = load_corpus("procedural", num_clips=300, seed=4)
    assert all(
        np.array_equal(a.features, b.features) and (a.captions, a.split) == (b.captions, b.split)
        for a, b in zip(built_in, again, strict=True)
    )
    assert np.array_equal(built_in.mean, again.mean) and np.array_equal(built_in.std, again.std)
    assert [clip.captions for clip in built_in] != [clip.captions for clip in other]


def test_no_caption_is_in_two_splits(made, built_in):
    said = [set(built_in.split(name).captions) for name in SPLITS]
    assert not (said[0] & said[1] or said[0] & said[2] or said[1] & said[2])
    assert all(clip.captions for clip in built_in)
    for clip, captions in zip(built_in, made.captions, strict=True):
        assert set(clip.captions) <= set(captions)
        assert clip.split != "train" or len(clip.captions) == len(captions)


def test_shares_are_80_5_15_in_every_action():
    rng = np.random.default_rng(0)
    actions = [(f"action {i % 4}",) if i % 5 else ("one", "two") for i in range(2000)]
    captions = [[f"{labels} {rng.integers(400)}" for _ in range(3)] for labels in actions]
    splits, kept = assign_splits(captions, actions, seed=1)
    for group in sorted(set(actions)):
        mine = [split for split, labels in zip(splits, actions, strict=True) if labels == group]
        assert abs(mine.count("test") / len(mine) - 0.15) < 0.01
        assert abs(mine.count("val") / len(mine) - 0.05) < 0.01
    assert all(kept)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([f"caption {i}" for i in range(12)]), min_size=1, max_size=4),
            st.sampled_from([("a",), ("b",), ("a", "b"), ()]),
        ),
        min_size=1,
        max_size=60,
    ),
    st.integers(0, 100),
)
def test_splits_never_share_a_caption(clips, seed):
    captions, actions = zip(*clips, strict=True)
    splits, kept = assign_splits(captions, actions, seed)
    said = {name: {c for own, split in zip(kept, splits, strict=True) if split == name for c in own} for name in SPLITS}
    assert not (said["train"] & said["test"] or said["train"] & said["val"] or said["val"] & said["test"])
    assert all(kept) and all(set(own) <= set(all_) for own, all_ in zip(kept, captions, strict=True))


def test_mean_and_deviation_are_those_of_the_training_clips(built_in):
    rows = np.concatenate([clip.features for clip in built_in.split("train")]).astype(np.float64)
    assert np.abs(rows.mean(0) - built_in.mean).max() < 1e-6
    for group in FEATURE_GROUPS(HUMANML3D).values():
        assert np.allclose(built_in.std[group], rows[:, group].std(0).mean(), rtol=1e-5)


def test_what_never_changes_has_a_deviation_floor():
    mean, std = statistics([Clip("still", np.ones((20, 263), np.float32), ("a person stands",))])
    assert (std == np.float32(1e-3)).all() and (mean == 1).all()


# --- choosing ------------------------------------------------------------------------------------------


def test_leaving_out_takes_composed_clips_too_and_every_trace(built_in):
    action = next(clip.actions[0] for clip in built_in if len(clip.actions) == 2)
    rest = built_in.leave_out(action)
    assert action not in rest.actions and not any(action in clip.actions for clip in rest)
    assert len(rest) + len(built_in.only(action)) == len(built_in)
    rows = np.concatenate([clip.features for clip in rest.split("train")]).astype(np.float64)
    assert np.abs(rows.mean(0) - rest.mean).max() < 1e-6 < np.abs(rest.mean - built_in.mean).max()


def _corpus(*clips):
    clips = [
        Clip(f"{i}", np.zeros((20, 263), np.float32), captions, actions) for i, (captions, actions) in enumerate(clips)
    ]
    return Corpus(tuple(clips), np.zeros(263), np.ones(263))


def _names(corpus):
    return [clip.name for clip in corpus]


def test_more_training_clips_bring_no_caption_that_is_held_back(built_in):
    more = more_training_clips(built_in, 300, seed=4)
    held = {caption for clip in built_in if clip.split != "train" for caption in clip.captions}
    added = list(more)[len(built_in) :]
    assert list(more)[: len(built_in)] == list(built_in) and np.array_equal(more.mean, built_in.mean)
    assert len(added) > 150 and all(clip.split == "train" and len(clip.captions) == 1 for clip in added)
    assert not held & {clip.captions[0] for clip in added}
    fresh = {caption for clip in load_corpus(num_clips=300, seed=4).split("train") for caption in clip.captions}
    assert held & fresh  # or the test would show nothing


def test_two_labels_ask_for_both():
    corpus = _corpus((("a",), ("walk",)), (("b",), ("wave",)), (("c",), ("wave", "walk")))
    assert _names(corpus.only("walk+wave")) == ["2"] and _names(corpus.leave_out("walk+wave")) == ["0", "1"]
    assert _names(corpus.only("walk")) == ["0", "2"] and _names(corpus.leave_out("walk")) == ["1"]
    assert corpus.actions == ["walk", "wave"]


def test_words_are_whole_and_case_does_not_matter():
    corpus = _corpus(
        (("He RAISES both arms.", "arms up"), ()), (("an unarmed man",), ()), (("both armswing",), ()), (("abc",), ())
    )
    assert _names(corpus.leave_out_words(["arms"])) == ["1", "2", "3"]
    assert _names(corpus.only_words("both  arms")) == ["0"]
    assert _names(corpus.leave_out_words(["raises", "unarmed"])) == ["2", "3"]
    with pytest.raises(UserError, match="armed"):
        corpus.leave_out_words(["armed"])
    with pytest.raises(UserError):
        corpus.leave_out_words(["a.c"])  # a word, not a pattern


def test_mistakes_in_choosing():
    corpus = _corpus((("a",), ("walk",)), (("b",), ("wave",)))
    with pytest.raises(UserError, match=re.escape("'moonwalk'; the actions are walk, wave")):
        corpus.leave_out("moonwalk")
    with pytest.raises(UserError, match="the actions are walk, wave"):
        corpus.only("walk+wave")
    with pytest.raises(UserError, match="no clip at all"):
        corpus.only("walk").leave_out("walk")
    with pytest.raises(UserError, match="train, val, test"):
        corpus.split("dev")
    with pytest.raises(UserError, match="index.csv"):
        _corpus((("a",), ())).leave_out("walk")
    for words in ([], [""], [" "], ""):
        with pytest.raises(UserError):
            corpus.leave_out_words(words)


# --- folders -------------------------------------------------------------------------------------------


def test_a_sound_folder(folder, made):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corpus = load_corpus(str(folder))
    assert [clip.split for clip in corpus] == ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    assert corpus.skipped == () and corpus.skeleton is HUMANML3D and corpus.fps == 20
    assert np.array_equal(corpus[1].features, np.load(folder / "new_joint_vecs/001.npy"))
    alone = joints_to_features(_joints(made, 5), sign_continuity=True).numpy()
    assert np.abs(corpus[5].features - alone).max() < 1e-5
    assert corpus[5].captions == tuple(made.captions[5])
    mean, std = statistics(corpus.split("train").clips)
    assert np.array_equal(corpus.mean, mean) and np.array_equal(corpus.std, std)


BAD_MOTION = {
    "NaN": lambda a: np.where(np.arange(len(a))[:, None, None] == 3, np.nan, a),
    "infinite": lambda a: np.where(a == a[2, 4, 1], np.inf, a),
    "expected": lambda a: np.concatenate([a, a[:, :2]], 1),
    "at least 2": lambda a: a[:1],
    "at least 2 are": lambda a: a[:0],
    "frames; at least 16": lambda a: a[:16],
    "not numbers": lambda a: a.astype(str),
    "unreadable": lambda a: a.astype(object),
}


@pytest.mark.parametrize("reason", BAD_MOTION)
def test_a_bad_clip_is_named_and_skipped(folder, made, reason):
    path = folder / "new_joints/006.npy"
    np.save(path, BAD_MOTION[reason](_joints(made, 6)), allow_pickle=True)
    with pytest.warns(UserWarning, match="1 skipped, 11 clips used. 006: ") as caught:
        corpus = load_corpus(folder)
    assert len(caught) == 1 and len(corpus) == 11 and "006" not in _names(corpus)
    ((name, said),) = corpus.skipped
    assert name == "006" and reason in said
    assert all(np.isfinite(clip.features).all() for clip in corpus)


def _header(shape: str) -> bytes:
    head = ("{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + "}").encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 no archive", b"PK\x05\x06" + bytes(18), b"\x80\x04K\x01.", _header("(10**15, 22, 3)"),
     _header("(1000000000000000, 22, 3)"), _header("(40, 22, 3)"), _header("(-4, 22, 3)"), _header("((")],
)  # fmt: skip
def test_files_that_are_no_arrays(folder, content):
    (folder / "new_joints/006.npy").write_bytes(content)
    corpus = _load_quietly(folder)
    assert len(corpus) == 11 and "006.npy is unreadable" in dict(corpus.skipped)["006"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot read texts/006.txt"),
        (b"", "no caption"),
        (b"\n \r\n", "no caption"),
        (b"#a/DET#0.0#0.0\n", "empty caption"),
        (b"a person waves#a/DET#soon#later", "seconds"),
        (b"a person waves#a/DET#4.0#2.0", "span"),
        (b"a person waves#a/DET#-1#2.0", "span"),
        (b"a person waves#a/DET#900#950", "0 frames"),
        ("a person waves".encode("utf-16"), "UTF-8"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_a_clip_without_a_sound_caption_is_skipped(folder, content, reason):
    path = folder / "texts/006.txt"
    path.unlink() if content is None else path.write_bytes(content)
    corpus = _load_quietly(folder)
    assert len(corpus) == 11 and reason in dict((clip[:3], said) for clip, said in corpus.skipped)["006"]


def test_one_bad_line_does_not_cost_the_clip(folder):
    lines = b"a person waves#a#0#0\r\n#b#0#0\r\nshe waves#c#nan#nan\r\njust words\r\n"
    (folder / "texts/006.txt").write_bytes(lines)
    with pytest.warns(UserWarning, match="006: line 2: empty caption"):
        corpus = load_corpus(folder)
    assert corpus[6].captions == ("a person waves", "she waves", "just words")


def test_windows_files(folder):
    expected = _load_quietly(folder)
    for path in [*folder.glob("*.txt"), *folder.glob("texts/*.txt")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    (folder / "index.csv").write_bytes(b'\xef\xbb\xbfname,Action\r\n000,"walk"\r\n001,walk + wave\r\n')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corpus = load_corpus(folder)
    assert [(c.name, c.split, c.captions) for c in corpus] == [(c.name, c.split, c.captions) for c in expected]
    assert corpus[0].actions == ("walk",) and corpus[1].actions == ("walk", "wave") and corpus[2].actions == ()


def test_spans_become_clips_of_their_own(folder):
    rows = np.arange(100, dtype=np.float32)[:, None] * np.ones((1, 263), np.float32)
    np.save(folder / "new_joint_vecs/006.npy", rows)
    (folder / "texts/006.txt").write_text(
        "all of it#a#0.0#0.0\nthe start#b#0#1.5\nthe rest#c#1.5#99\nthe very start#d#0.0#1.5\n"
    )
    corpus = _load_quietly(folder)
    parts = {clip.name: clip for clip in corpus if clip.name.startswith("006")}
    assert list(parts) == ["006", "006_0_1.5", "006_1.5_99"]
    assert [(len(part), part.features[0, 0]) for part in parts.values()] == [(100, 0), (30, 0), (70, 30)]
    assert parts["006_0_1.5"].captions == ("the start", "the very start")
    assert {part.split for part in parts.values()} == {"train"}


def test_unreadable_features_give_way_to_joints(folder, made):
    path = folder / "new_joint_vecs/001.npy"
    path.write_bytes(path.read_bytes()[:-100])
    np.save(folder / "new_joint_vecs/000.npy", np.full((40, 263), np.nan, np.float32))
    corpus = _load_quietly(folder)
    assert len(corpus) == 12
    for i in (0, 1):
        alone = joints_to_features(_joints(made, i), sign_continuity=True).numpy()
        assert np.abs(corpus[i].features - alone).max() < 1e-5


def test_lists_name_what_is_missing_and_what_is_not_listed(folder):
    (folder / "val.txt").write_text("008\n../../etc/passwd\nmissing\n\x00\n")
    corpus = _load_quietly(folder)
    assert len(corpus) == 11 and [clip.name for clip in corpus.split("val")] == ["008"]
    names = [name for name, _ in corpus.skipped]
    assert names == ["\x00", "../../etc/passwd", "missing", "009"]


def test_without_lists_the_split_is_drawn_by_name_and_mirrors_stay_together(folder):
    for split in SPLITS:
        (folder / f"{split}.txt").unlink()
    corpus, again = _load_quietly(folder), _load_quietly(folder)
    assert len(corpus) == 12 and [c.split for c in corpus] == [c.split for c in again]
    draws = [corpus_module._draw_split(f"{i:06d}", 0) for i in range(4000)]
    assert abs(draws.count("test") / 4000 - 0.15) < 0.02 and abs(draws.count("val") / 4000 - 0.05) < 0.02
    assert draws == [corpus_module._draw_split(f"M{i:06d}", 0) for i in range(4000)]
    assert draws != [corpus_module._draw_split(f"{i:06d}", 1) for i in range(4000)]


def test_mean_and_deviation_of_the_folder_are_taken_where_sound(folder):
    mean, std = np.arange(263, dtype=np.float64), np.linspace(0, 1, 263)
    np.save(folder / "Mean.npy", mean)
    np.save(folder / "Std.npy", std)
    corpus = _load_quietly(folder)
    assert np.array_equal(corpus.mean, mean.astype(np.float32)) and np.allclose(corpus.std, np.maximum(std, 1e-3))
    for bad in (std[:251], np.full(263, np.nan), -std):
        np.save(folder / "Std.npy", bad)
        with pytest.warns(UserWarning, match="computed afresh"):
            assert np.array_equal(load_corpus(folder).mean, statistics(corpus.split("train").clips)[0])


def test_a_kit_ml_folder_is_known_by_its_width(folder, made):
    for path in folder.glob("new_joint*/*.npy"):
        path.unlink()
    for i in range(6):
        np.save(folder / f"new_joint_vecs/{i:03d}.npy", np.ones((25, 251), np.float32))
    np.save(folder / "new_joints/006.npy", np.random.default_rng(0).normal(size=(25, 21, 3)))
    np.save(folder / "new_joints/007.npy", _joints(made, 7))
    corpus = _load_quietly(folder)
    assert corpus.skeleton is KIT_ML and corpus.fps == 12.5 and corpus.mean.shape == (251,)
    assert len(corpus) == 7 and corpus[6].features.shape == (24, 251)
    assert "another skeleton" in dict(corpus.skipped)["007"]


def test_long_clips_keep_their_middle(folder):
    rows = np.arange(300, dtype=np.float32)[:, None] * np.ones((1, 263), np.float32)
    np.save(folder / "new_joint_vecs/006.npy", rows)
    assert _load_quietly(folder)[6].features[[0, -1], 0].tolist() == [52, 247]
    assert _load_quietly(folder, max_frames=20, min_frames=20)[6].features[[0, -1], 0].tolist() == [140, 159]
    assert max(map(len, _load_quietly(folder, max_frames=20))) == 20
    assert len(_load_quietly(folder, min_frames=100)) == 1
    assert max(map(len, load_corpus("procedural", 20, max_frames=30))) == 30


def test_a_part_of_a_folder(folder):
    names = _names(_load_quietly(folder, num_clips=5))
    assert len(names) == 5 and names == sorted(names) == _names(_load_quietly(folder, num_clips=5))
    assert set(names) <= set(_names(_load_quietly(folder, num_clips=7)))


def test_mistakes_in_the_source(tmp_path, folder):
    with pytest.raises(UserError, match="no corpus at"):
        load_corpus(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no corpus at"):
        load_corpus(folder / "train.txt")
    with pytest.raises(UserError, match="neither new_joints"):
        load_corpus(folder / "texts")
    for options in ({"num_clips": 0}, {"min_frames": 0}, {"min_frames": 30, "max_frames": 20}):
        with pytest.raises(UserError):
            load_corpus("procedural", **options)
    for path in folder.glob("texts/*.txt"):
        path.unlink()
    with pytest.raises(UserError, match="no clip that can be used, of 12; 000: cannot read texts/000.txt"):
        load_corpus(folder)


def test_a_broken_index_is_an_error_and_one_without_labels_is_not(folder):
    (folder / "index.csv").write_text("file,style\n000,happy\n")
    assert _load_quietly(folder).actions == []
    (folder / "index.csv").write_bytes(b"name,action\n000,\xff\xfe")
    with pytest.raises(UserError, match="index.csv"):
        load_corpus(folder)
    (folder / "index.csv").write_text("name,action\n000," + "x" * 200_000)
    with pytest.raises(UserError, match="index.csv"):
        load_corpus(folder)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        ["texts/003.txt", "train.txt", "index.csv", "new_joints/003.npy", "Mean.npy", "new_joint_vecs/001.npy"]
    ),
    st.binary(max_size=120),
    st.booleans(),
)
def test_any_bytes_anywhere_are_skipped_or_refused_in_words(shared_folder, name, content, keep_head):
    path = shared_folder / name
    before = path.read_bytes() if path.is_file() else None
    head = (before or b"")[: len(before or b"") // 3] if keep_head else b""
    try:
        path.write_bytes(head + content)
        corpus = _load_quietly(shared_folder)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert all(np.isfinite(clip.features).all() and clip.captions and len(clip) >= 16 for clip in corpus)
        assert np.isfinite(corpus.mean).all() and (corpus.std > 0).all()
    finally:
        path.unlink(missing_ok=True) if before is None else path.write_bytes(before)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory, made):
    root = tmp_path_factory.mktemp("fuzz")
    for part in ("new_joints", "new_joint_vecs", "texts"):
        (root / part).mkdir()
    for i in range(5):
        np.save(root / f"new_joints/{i:03d}.npy", _joints(made, i))
        (root / f"texts/{i:03d}.txt").write_text(f"{made.captions[i][0]}#a/DET#0.0#0.0\n")
    np.save(root / "new_joint_vecs/001.npy", np.ones((30, 263), np.float32))
    (root / "train.txt").write_text("000\n001\n002\n003\n")
    (root / "test.txt").write_text("004\n")
    return root


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_read_as_captions_or_refused(text):
    try:
        captions, faults = parse_captions(text.replace("\r", "\n"))
    except UserError:
        return
    for caption in captions:
        assert (caption.start == caption.end == 0 or 0 <= caption.start < caption.end) and caption.text.strip()
    assert len(faults) + len(captions) <= text.count("\n") + text.count("\r") + 1


# --- batches -------------------------------------------------------------------------------------------


def test_a_batch_is_padded_with_zeros_and_says_how_long_each_is(built_in):
    clips = built_in.clips[:6]
    batch = collate(clips)
    assert batch.motion.shape == (6, max(map(len, clips)), 263) and batch.lengths.tolist() == list(map(len, clips))
    for row, length, clip in zip(batch.motion, batch.lengths, clips, strict=True):
        assert np.array_equal(row[:length].numpy(), clip.features) and (row[length:] == 0).all()
    assert batch.prompts == [clip.captions[0] for clip in clips] and batch.actions == [c.actions for c in clips]
    assert len(batch.to("cpu")) == 6


def test_captions_and_cuts_come_from_the_generator():
    rows = np.arange(50, dtype=np.float32)[:, None] * np.ones((1, 263), np.float32)
    clips = [Clip("long", rows, ("one", "two", "three"))] * 2000
    batch = collate(clips, torch.Generator().manual_seed(0), max_frames=40)
    again = collate(clips, torch.Generator().manual_seed(0), max_frames=40)
    assert batch.prompts == again.prompts and torch.equal(batch.motion, again.motion)
    shares = [batch.prompts.count(caption) / 2000 for caption in ("one", "two", "three")]
    assert max(abs(share - 1 / 3) for share in shares) < 0.05
    starts = batch.motion[:, 0, 0].unique(return_counts=True)
    assert starts[0].tolist() == list(range(11)) and (starts[1] / 2000 - 1 / 11).abs().max() < 0.03
    assert (batch.motion[:, -1, 0] - batch.motion[:, 0, 0] == 39).all()
    assert collate(clips[:1], max_frames=40).motion[0, 0, 0] == 5


def test_an_empty_batch_is_refused():
    with pytest.raises(UserError, match="no clips"):
        collate([])


# --- real motion ---------------------------------------------------------------------------------------


@needs_bandai
def test_real_clips_are_all_used_and_leave_out_by_label():
    corpus = load_corpus(BANDAI)
    assert len(corpus) == 1347 and corpus.skipped == ()
    assert len(corpus.actions) == 7 and np.array_equal(corpus.mean, np.load(BANDAI / "Mean.npy"))
    rest = corpus.leave_out("raise-up-both-hands")
    assert len(rest.actions) == 6 and len(rest) + len(corpus.only("raise-up-both-hands")) == len(corpus)


@needs_bandai
def test_features_computed_from_real_joints_are_those_that_ship():
    paths = sorted((BANDAI / "new_joint_vecs").glob("*.npy"))[:20]
    joints = [np.load(BANDAI / "new_joints" / path.name) for path in paths]
    computed = features_in_batches(joints, HUMANML3D)
    for path, rows in zip(paths, computed, strict=True):
        shipped = np.load(path)[:-1]
        assert np.abs(rows - shipped)[:, :67].mean() < 5e-3  # root and positions; the joints were recovered
        assert (rows[:, -4:] == shipped[:, -4:]).all()
