"""Any bytes in any file of a data set: skipped or refused in one line, never a traceback, never run, never endless.

Five hundred cases, shared out between arrays, archives, text, lists, tables, BVH and packs.
"""

import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_capture import amass, body_model, bvh

from mocapfree_nb.bench import write_folder
from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.data import folders, packs
from mocapfree_nb.data.amass import read_amass
from mocapfree_nb.data.capture import read_bvh
from mocapfree_nb.files import UserError

MARKER = "executed-by-a-pickle"


class Bomb:
    """Unpickled, it makes a file."""

    def __reduce__(self):
        return os.mkdir, (MARKER,)


def cases(count: int):
    quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(max_examples=count, deadline=10_000, derandomize=True, suppress_health_check=quiet)  # ms: never endless


PICKLES = [pickle.dumps(Bomb(), protocol) for protocol in range(6)]


@st.composite
def damaged(draw, sound: bytes):
    """A sound file with a piece cut out, replaced or put in; or any bytes; or a pickle that runs something."""
    kind = draw(st.sampled_from(["piece", "piece", "cut", "bytes", "pickle"]))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    if kind == "pickle":
        return draw(st.sampled_from(PICKLES))
    start = draw(st.integers(0, len(sound)))
    if kind == "cut":
        return sound[:start]
    length = draw(st.integers(0, 40))
    return sound[:start] + draw(st.binary(max_size=40)) + sound[start + length :]


def quietly(call, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*arguments, **options)


def in_one_line(call, *arguments, **options):
    """The result, or None where the mistake was told in one line; nothing may have been run."""
    try:
        return quietly(call, *arguments, **options)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
    finally:
        assert not Path(MARKER).exists()
    return None


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOCAPFREE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    write_folder(root, 6)
    (root / "index.csv").write_text("name,action\n000000,walk\nM000000,walk+wave\n")
    return root


ARRAYS = ("new_joint_vecs/000001.npy", "new_joints/000001.npy", "Mean.npy", "Std.npy")
TEXTS = ("texts/000001.txt", "train.txt", "test.txt", "index.csv")


def with_damage(root, name, data):
    path = root / name
    before = path.read_bytes()
    try:
        path.write_bytes(data.draw(damaged(before)))
        if name == "new_joints/000001.npy":
            (root / ARRAYS[0]).rename(root / "aside")
        corpus = in_one_line(load_corpus, root)
    finally:
        path.write_bytes(before)
        if (root / "aside").exists():
            (root / "aside").rename(root / ARRAYS[0])
    if corpus is not None:
        assert all(np.isfinite(clip.features).all() and clip.captions and len(clip) >= 16 for clip in corpus)
        assert np.isfinite(corpus.mean).all() and (corpus.std > 0).all() and len(corpus)


@cases(120)
@given(st.sampled_from(ARRAYS), st.data())
def test_arrays(folder, name, data):
    with_damage(folder, name, data)


@cases(120)
@given(st.sampled_from(TEXTS), st.data())
def test_texts_lists_and_tables(folder, name, data):
    with_damage(folder, name, data)


SOUND = bvh(frames=4).encode()
WORDS = [b"Frames: 999999999", b"Frames: -3", b"Frame Time: nan", b"CHANNELS 6 ", b"End Site", b"JOINT ", b"{", b"}", b"1e400"]


@cases(140)
@given(st.data())
def test_bvh(data):
    content = data.draw(damaged(SOUND))
    for _ in range(data.draw(st.integers(0, 2))):  # damage that still looks like the format
        start = data.draw(st.integers(0, len(content)))
        content = content[:start] + data.draw(st.sampled_from(WORDS)) + content[start + data.draw(st.integers(0, 30)) :]
    Path("a.bvh").write_bytes(content)
    joints = in_one_line(read_bvh, "a.bvh")
    assert joints is None or (joints.shape[1:] == (22, 3) and np.isfinite(joints).all())


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    root = tmp_path_factory.mktemp("bodies")
    body_model(root / "neutral/model.npz")
    amass(root / "sound/a.npz", frames=12)
    return root


@cases(80)
@given(st.data())
def test_amass_archives(bodies, data):
    Path("a.npz").write_bytes(data.draw(damaged((bodies / "sound/a.npz").read_bytes())))
    if data.draw(st.booleans()):  # a sound archive of one damaged array
        with zipfile.ZipFile("a.npz", "w") as archive, zipfile.ZipFile(bodies / "sound/a.npz") as sound:
            chosen = data.draw(st.sampled_from(sound.namelist()))
            for name in sound.namelist():
                archive.writestr(name, data.draw(damaged(sound.read(name))) if name == chosen else sound.read(name))
    joints = in_one_line(read_amass, "a.npz", bodies / "neutral")
    assert joints is None or (joints.shape[1:] == (22, 3) and np.isfinite(joints).all())


@cases(40)
@given(st.data())
def test_packs(folder, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "PACK_FROM", 2)
        opened = folders.DataFolder(folder)
        quietly(folders.read_recordings, opened)
        path = packs.pack_path(opened)
        expected = path.read_bytes()
        path.unlink()
        path.write_bytes(data.draw(damaged(expected)))
        found, _ = quietly(folders.read_recordings, opened)
        assert not Path(MARKER).exists()
        for recording, name in zip(found, opened.names, strict=True):
            rows = in_one_line(lambda recording=recording: recording.features)
            assert rows is None or np.array_equal(rows, np.load(folder / f"new_joint_vecs/{name}.npy"))
        path.unlink()


def test_damaged_and_hostile_files_for_every_reader():
    """A few of the cases of `make fuzz`, the same ones every time."""
    command = [sys.executable, Path(__file__).with_name("fuzz.py"), "--cases", "100", "--seed", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "100 cases, seed 0" in done.stdout
