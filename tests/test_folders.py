"""Folders as the field ships them: what they are, what is wrong with them, and that packing changes nothing."""

import multiprocessing
import os
import shutil
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from mocapfree_nb.bench import write_folder
from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.data import folders, packs
from mocapfree_nb.data.captions import parse_captions
from mocapfree_nb.data.convert import convert_skeleton
from mocapfree_nb.data.folders import DataFolder, read_recordings
from mocapfree_nb.data.packs import pack_path
from mocapfree_nb.features import joints_to_features
from mocapfree_nb.files import UserError
from mocapfree_nb.output.takes import load_takes
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.skeleton import HUMANML3D, KIT_ML

MADE = generate_clips(12, seed=5)


def joints_of(i: int) -> np.ndarray:
    return np.asarray(MADE.joints[i, : MADE.lengths[i]])


def quietly(call, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments, **options)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOCAPFREE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("template")
    write_folder(root, 24)
    return root


@pytest.fixture
def shipped(tmp_path, template):
    """A folder of 24 motions as HumanML3D ships: mirrored clips, joints too, Mean and Std, lists."""
    return shutil.copytree(template, tmp_path / "HumanML3D")


@pytest.fixture
def large(tmp_path, template, monkeypatch):
    """The same without joints, as a folder that is large enough for a pack."""
    monkeypatch.setattr(folders, "PACK_FROM", 10)
    return shutil.copytree(template, tmp_path / "large", ignore=shutil.ignore_patterns("new_joints"))


@pytest.fixture
def kit(tmp_path):
    root = tmp_path / "KIT-ML"
    for part in ("new_joint_vecs", "texts"):
        (root / part).mkdir(parents=True)
    for i in range(12):
        rows = joints_to_features(convert_skeleton(joints_of(i), HUMANML3D, KIT_ML), KIT_ML, sign_continuity=True)
        np.save(root / f"new_joint_vecs/{i:05d}.npy", rows.numpy())
        (root / f"texts/{i:05d}.txt").write_text(f"{MADE.captions[i][0]}#a/DET#0.0#0.0\n")
    return root


# --- what a folder is ----------------------------------------------------------------------------------


def test_a_folder_says_what_it_is(shipped, kit):
    assert (DataFolder(shipped).kind, DataFolder(kit).kind) == ("HumanML3D", "KIT-ML")
    corpus = load_corpus(shipped)
    assert corpus.source == f"HumanML3D folder {shipped}" and "HumanML3D folder" in repr(corpus)
    assert "KIT-ML folder" in repr(load_corpus(kit, min_frames=8))
    assert "built-in" in repr(load_corpus("procedural", num_clips=4))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "neither new_joints"),
        (["HumanML3D/new_joints/1.npy"], r"did you mean .*HumanML3D\?"),
        (["a.bvh", "b.npz"], "1 .bvh and 1 .npz files"),
        (["a.bvh"], "1 BVH files but no captions: add captions.csv"),
        (["CMU/a.npz"], "1 AMASS files but no captions: add captions.csv"),
    ],
)
def test_a_folder_that_is_none_of_these(tmp_path, files, words):
    for name in files:
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"")
    (tmp_path / "x").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=words):
        load_corpus(tmp_path / "x")


def test_kit_ml_is_known_by_most_of_its_files(kit):
    np.save(kit / "new_joint_vecs/00000.npy", np.zeros((30, 263), np.float32))
    (kit / "new_joint_vecs/00001.npy").write_bytes(b"no array")
    assert DataFolder(kit).kind == "KIT-ML"
    skipped = dict(quietly(load_corpus, kit, min_frames=8).skipped)
    assert "another skeleton" in skipped["00000"] and "unreadable" in skipped["00001"]


# --- as it ships ---------------------------------------------------------------------------------------


def test_parts_of_speech_and_spans_are_read():
    captions, faults = parse_captions("a man kicks.#a/DET man/NOUN kick/VERB#0.0#0.0\nhe falls#he/PRON fall/VERB#1.5#4")
    assert [tuple(c) for c in captions] == [
        ("a man kicks.", "a/DET man/NOUN kick/VERB", 0, 0),
        ("he falls", "he/PRON fall/VERB", 1.5, 4),
    ]
    assert faults == []


INPUTS = Path(__file__).parent / "inputs"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ((INPUTS / "caption_with_hash.txt").read_text(), ("a person takes step #2 and stops", "a/DET person/NOUN", 0, 0)),
        ("#1 dancer spins#1/NUM dancer/NOUN#1.5#4", ("#1 dancer spins", "1/NUM dancer/NOUN", 1.5, 4)),
        ("walks##0.0#0.0", ("walks", "", 0, 0)),
        ("step #2, then stop", ("step #2, then stop", "", 0, 0)),
        ("poses #1, #2 and #3", ("poses #1, #2 and #3", "", 0, 0)),
        ("do #1 #2 #3", ("do #1 #2 #3", "", 0, 0)),
        ("jumps #2#jumps/VERB #2/NUM#0#0", ("jumps #2", "jumps/VERB #2/NUM", 0, 0)),
        ("he waves#he/PRON wave/VERB", ("he waves", "", 0, 0)),
    ],
)
def test_a_caption_may_hold_a_hash(line, wanted):
    captions, faults = parse_captions(line)
    assert [tuple(caption) for caption in captions] == [wanted] and faults == []


def test_arrays_as_mdm_writes_them(tmp_path):
    root = write_joints(tmp_path, lambda clip: clip)
    other = write_joints(tmp_path / "mdm", lambda clip: clip.transpose(1, 2, 0))  # (22, 3, frames)
    batch = write_joints(tmp_path / "batch", lambda clip: clip[None].transpose(0, 2, 3, 1))  # (1, 22, 3, frames)
    corpora = [quietly(load_corpus, folder) for folder in (root, other, batch)]
    for corpus in corpora[1:]:
        assert all(np.array_equal(a.features, b.features) for a, b in zip(corpus, corpora[0], strict=True))
    np.save(other / "new_joints/000.npy", np.zeros((10, 22, 3, 120)))
    said = dict(quietly(load_corpus, other).skipped)["000"]
    assert "10 motions; save each by itself" in said and "array[i].transpose(2, 0, 1)[:length]" in said


def test_a_pickle_of_results_is_never_loaded_and_how_to_save_it_is_said(tmp_path):
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self):
            return (marker.touch, ())

    (tmp_path / "out").mkdir()
    np.save(tmp_path / "out/results.npy", np.array({"motion": Evil()}, dtype=object), allow_pickle=True)
    marker.unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"a pickle, which is never loaded: .*m.transpose\(2, 0, 1\)\[:n\]"):
        load_corpus(tmp_path / "out")
    with pytest.raises(UserError, match=r"never loaded.*transpose\(2, 0, 1\)"):
        load_takes(tmp_path / "out/results.npy")
    assert not marker.exists()


def write_joints(root: Path, change) -> Path:
    made = generate_clips(3, seed=0)
    for part in ("new_joints", "texts"):
        (root / part).mkdir(parents=True)
    for i in range(3):
        np.save(root / f"new_joints/{i:03d}.npy", change(np.asarray(made.joints[i, : made.lengths[i]])))
        (root / f"texts/{i:03d}.txt").write_text("a person moves\n")
    return root


def test_endings_in_upper_case_and_rows_that_match_no_file(tmp_path):
    for name in ("a.BVH", "sub/b.Bvh", "c.bvh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((INPUTS / "UPPER_CASE.BVH").read_bytes())
    rows = ["name,caption", "a.BVH,she walks", "sub\\B,he walks", "./c,they walk", "sub/b,it walks", "d.bvh,nobody", "e,nobody"]
    (tmp_path / "captions.csv").write_text("\n".join(rows))
    corpus = quietly(load_corpus, tmp_path, min_frames=8)
    assert [(clip.name, clip.captions[0]) for clip in corpus] == [("a", "she walks"), ("c", "they walk"), ("sub/b", "it walks")]
    assert dict(corpus.skipped)["captions.csv"] == "3 of its names match no file: d and 2 more; names are written like a"


def test_humanml3d_as_it_ships(shipped):
    """Mirrored clips, the clip that is not a number, a short one, sub-spans: the rest is untouched by them."""
    (shipped / "new_joint_vecs/000002.npy").rename(shipped / "new_joint_vecs/007975.npy")
    vectors = np.load(shipped / "new_joint_vecs/007975.npy")
    np.save(shipped / "new_joint_vecs/007975.npy", np.full_like(vectors, np.nan))
    (shipped / "new_joints/000002.npy").unlink()
    (shipped / "texts/000002.txt").rename(shipped / "texts/007975.txt")
    lists = (shipped / "train.txt").read_text()
    (shipped / "train.txt").write_text(lists.replace("\n000002\n", "\n007975\n"))
    np.save(shipped / "new_joint_vecs/000003.npy", vectors[:12])
    (shipped / "texts/M000001.txt").write_text("all#all/DET#0.0#0.0\nthe start#the/DET start/NOUN#0.0#1.0\n")
    with pytest.warns(UserWarning, match="007975"):
        corpus = load_corpus(shipped)
    skipped = dict(corpus.skipped)
    assert set(skipped) == {"007975", "000003"}
    assert "NaN" in skipped["007975"] and "12 frames" in skipped["000003"]
    names = [clip.name for clip in corpus]
    assert len(names) == 23 and sum(name.startswith("M") for name in names) == 13
    part = corpus[names.index("M000001_0_1")]
    whole = np.load(shipped / "new_joint_vecs/M000001.npy")
    assert np.array_equal(part.features, whole[:20]) and part.captions == ("the start",)
    assert np.array_equal(corpus.mean, np.load(shipped / "Mean.npy"))
    recordings, _ = read_recordings(DataFolder(shipped), ["M000001"])
    assert [c.tokens for c in recordings[0].captions] == ["all/DET", "the/DET start/NOUN"]


# --- the pack ------------------------------------------------------------------------------------------


def same(one, other) -> bool:
    return [r.name for r in one] == [r.name for r in other] and all(
        a.captions == b.captions and np.array_equal(a.features, b.features) for a, b in zip(one, other, strict=True)
    )


def refuse(*arguments, **options):
    raise AssertionError("a motion file was read")


def test_the_pack_gives_what_the_files_hold_and_the_files_are_read_once(large, monkeypatch):
    plain = list(folders._read_all(data := DataFolder(large), data.names, HUMANML3D, []))
    packed, _ = read_recordings(DataFolder(large))
    monkeypatch.setattr(folders, "load_array", refuse)
    again, _ = read_recordings(DataFolder(large))
    assert same(plain, packed) and same(plain, again)
    vectors = np.load(pack_path(data))  # a pack is a plain array to numpy
    assert np.array_equal(vectors, np.concatenate([recording.features for recording in plain]))


def test_faults_are_remembered_by_the_pack(large):
    (large / "texts/000003.txt").write_text("#x#0#0\n")
    first, second = (quietly(load_corpus, large) for _ in range(2))
    assert first.skipped == second.skipped == (("000003", "no caption (line 1: empty caption)"),)


CHANGES = {
    "written": lambda root: np.save(root / "new_joint_vecs/000001.npy", np.zeros((50, 263), np.float32)),
    "removed": lambda root: (root / "new_joint_vecs/000001.npy").unlink(),
    "renamed": lambda root: (root / "new_joint_vecs/000001.npy").rename(root / "new_joint_vecs/000099.npy"),
    "added": lambda root: np.save(root / "new_joint_vecs/000099.npy", np.zeros((50, 263), np.float32)),
    "text": lambda root: (root / "texts/000001.txt").write_text("other words#x#0#0\n"),
    "touched": lambda root: os.utime(root / "texts/000001.txt", ns=(1, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_folder_is_packed_anew(large, change, monkeypatch):
    read_recordings(DataFolder(large))
    CHANGES[change](large)
    data = DataFolder(large)
    expected = list(folders._read_all(data, data.names, HUMANML3D, []))
    before = pack_path(data).stat().st_mtime_ns
    found, _ = read_recordings(data)
    assert same(found, expected) and pack_path(data).stat().st_mtime_ns > before


def test_lists_may_change_without_packing_anew(large, monkeypatch):
    load_corpus(large)
    (large / "test.txt").write_text((large / "test.txt").read_text() + (large / "val.txt").read_text())
    (large / "val.txt").write_text("")
    monkeypatch.setattr(folders, "load_array", lambda path, **_: np.load(path) if path.parent == large else refuse())
    assert len(load_corpus(large).split("val")) == 0


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-10],
    "cut in half": lambda data: data[: len(data) // 2],
    "index": lambda data: data[:-500] + b"?" + data[-499:],
    "footer": lambda data: data[:-1] + b"?",
    "header": lambda data: data.replace(b"263", b"251", 1),
    "rows missing": lambda data: data[:1000] + data[2000:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_pack_is_written_anew(large, damage):
    expected, _ = read_recordings(DataFolder(large))
    expected = [(r.name, r.features.copy()) for r in expected]
    path = pack_path(DataFolder(large))
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(DAMAGE[damage](content))
    found, _ = read_recordings(DataFolder(large))
    assert all(r.name == name and np.array_equal(r.features, rows) for r, (name, rows) in zip(found, expected, strict=True))
    assert path.read_bytes() == content


def test_a_damaged_motion_is_named_when_it_is_used(large):
    read_recordings(DataFolder(large))
    path = pack_path(DataFolder(large))
    with open(path, "r+b") as file:
        file.seek(3000)
        byte = file.read(1)
        file.seek(3000)
        file.write(bytes([byte[0] ^ 1]))
    found, _ = read_recordings(DataFolder(large))
    with pytest.raises(UserError, match=r"clip 000000\) is damaged on disk; remove that file"):
        _ = found[0].features
    assert found[1].features.shape[1] == 263


def test_what_is_written_to_a_clip_stays_out_of_the_pack(large):
    content = pack_path(DataFolder(large)), load_corpus(large)
    before = zlib.crc32(content[0].read_bytes())
    content[1][0].features[:] = 7.0
    assert zlib.crc32(content[0].read_bytes()) == before
    assert not (load_corpus(large)[0].features == 7.0).any()


def test_nothing_is_written_into_the_folder(large):
    before = sorted(path.name for path in large.rglob("*"))
    for path in [large, *large.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(load_corpus(large)) == 24 == len(load_corpus(large))
        assert sorted(path.name for path in large.rglob("*")) == before
    finally:
        for path in [large, *large.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_without_room_for_a_pack_the_folder_is_read_into_memory(large, monkeypatch, tmp_path):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    expected = list(folders._read_all(data := DataFolder(large), data.names, HUMANML3D, []))
    monkeypatch.setattr(packs.zlib, "crc32", full)
    with pytest.warns(UserWarning, match="no packed copy could be kept.*No space left.*MOCAPFREE_CACHE"):
        found, _ = read_recordings(data)
    assert same(found, expected) and list((tmp_path / "cache").iterdir()) == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOCAPFREE_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="no packed copy"):
        assert len(read_recordings(data)[0]) == 24


def test_an_interrupted_packing_leaves_nothing(large, monkeypatch, own_cache):
    monkeypatch.setattr(packs.zlib, "crc32", lambda rows: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        read_recordings(DataFolder(large))
    assert list(own_cache.iterdir()) == []


def test_what_a_killed_program_left_is_swept_up(large, own_cache):
    path = pack_path(DataFolder(large))
    own_cache.mkdir()
    old, young = own_cache / f".{path.name}.aaa.npy", own_cache / f".{path.name}.bbb.npy"
    for left in (old, young):
        left.write_bytes(b"half")
    os.utime(old, (time.time() - 100_000,) * 2)
    read_recordings(DataFolder(large))
    assert not old.exists() and young.exists()


def _checksums(root, start, answers):
    start.wait()
    found, _ = read_recordings(DataFolder(root))
    answers.put([(r.name, zlib.crc32(r.features)) for r in found])


def test_programs_that_pack_at_once_get_the_same_and_leave_one_whole_pack(large, own_cache):
    context = multiprocessing.get_context("fork")
    start, answers = context.Event(), context.Queue()
    programs = [context.Process(target=_checksums, args=(large, start, answers)) for _ in range(3)]
    for program in programs:
        program.start()
    start.set()
    found = [answers.get(timeout=300) for _ in programs]
    for program in programs:
        program.join(timeout=300)
    expected = list(folders._read_all(data := DataFolder(large), data.names, HUMANML3D, []))
    assert found == [[(r.name, zlib.crc32(r.features)) for r in expected]] * 3
    assert [path.name for path in own_cache.iterdir()] == [pack_path(data).name]


def test_a_few_clips_of_a_large_folder_are_read_without_packing(large, own_cache):
    assert len(load_corpus(large, num_clips=5)) == 5 and not own_cache.exists()


def test_clips_of_a_pack_are_cut_like_those_of_files(large, monkeypatch):
    (large / "texts/000001.txt").write_text("all#x#0#0\nsome#x#0.5#1.7\n")
    options = {"max_frames": 50, "min_frames": 20}
    packed = load_corpus(large, **options)
    monkeypatch.setattr(folders, "PACK_FROM", 10_000)
    plain = load_corpus(large, **options)
    assert [(c.name, c.captions, c.split) for c in packed] == [(c.name, c.captions, c.split) for c in plain]
    assert all(np.array_equal(a.features, b.features) for a, b in zip(packed, plain, strict=True))
    assert {len(clip) for clip in packed} >= {50, 24} and isinstance(packed[0].motion, packs.StoredMotion)


# --- KIT-ML on the shared skeleton ---------------------------------------------------------------------


def test_kit_ml_in_its_own_features_and_on_the_shared_skeleton(kit):
    own, shared = load_corpus(kit, min_frames=8), load_corpus(kit, skeleton=HUMANML3D)
    assert (own[0].features.shape[1], own.fps, shared[0].features.shape[1], shared.fps) == (251, 12.5, 263, 20.0)
    assert "on the skeleton of HumanML3D" in shared.source
    direct = joints_to_features(joints_of(0), sign_continuity=True).numpy()
    rows = min(len(direct), len(shared[0]))
    assert abs(rows - len(direct)) <= 4
    legs = np.r_[4:10, 13:19, 22:28, 31:37]  # positions of hips, knees, ankles, feet: exact but for the frame rate
    assert np.abs(shared[0].features[:rows, legs] - direct[:rows, legs]).mean() < 0.01
    assert np.abs(shared[0].features[:rows, 3] - direct[:rows, 3]).mean() < 0.01  # metres above the floor


def test_the_two_forms_of_kit_ml_have_packs_of_their_own(kit, monkeypatch):
    monkeypatch.setattr(folders, "PACK_FROM", 10)
    data = DataFolder(kit)
    for _ in range(2):
        assert read_recordings(data)[0][0].features.shape[1] == 251
        assert read_recordings(data, skeleton=HUMANML3D)[0][0].features.shape[1] == 263
    assert pack_path(data) != pack_path(data, HUMANML3D)
