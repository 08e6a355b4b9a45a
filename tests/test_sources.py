"""Readers of folders: a format of one's own through public names, one module and one registration."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mocapfree_nb.corpus import load_corpus
from mocapfree_nb.features import features_to_joints, joints_to_features
from mocapfree_nb.files import UserError
from mocapfree_nb.procedural import generate_clips
from mocapfree_nb.skeleton import KIT_ML
from mocapfree_nb.sources import READERS, Caption, Recording, Source, register_reader

MADE = generate_clips(12, seed=5)


class Diary(Source):
    "diary.txt: a line each, `name | caption | action`; joints or features beside it."

    kind = "diary"

    def __init__(self, folder):
        super().__init__(folder)
        lines = (self.folder / "diary.txt").read_text(encoding="utf-8").splitlines()
        self.rows = {name: rest for name, *rest in (line.split(" | ") for line in lines)}
        self.names = sorted(self.rows)

    def read(self, name):
        if not (self.folder / f"{name}.npy").is_file():
            raise UserError("torn out")
        return Recording(name, np.load(self.folder / f"{name}.npy"), (Caption(self.rows[name][0]),))

    def labels(self):
        return {name: (row[1],) for name, row in self.rows.items()}


@pytest.fixture
def diary(tmp_path, monkeypatch):
    monkeypatch.setattr("mocapfree_nb.sources.READERS", dict(READERS))

    @register_reader("diary")
    def open_diary(folder, **options):
        return Diary(folder) if (Path(folder) / "diary.txt").is_file() else None

    lines = []
    for i in range(12):
        joints = MADE.joints[i, : MADE.lengths[i]]
        np.save(tmp_path / f"d{i:02d}.npy", joints_to_features(joints).numpy() if i == 3 else joints)
        lines.append(f"d{i:02d} | {MADE.captions[i][0]} | {MADE.actions[i][0]}")
    (tmp_path / "diary.txt").write_text("\n".join(lines))
    return tmp_path


def test_a_format_of_ones_own_becomes_a_corpus(diary):
    corpus = load_corpus(diary)
    assert [clip.name for clip in corpus] == [f"d{i:02d}" for i in range(12)] and corpus.source == f"diary folder {diary}"
    assert corpus[0].captions == (MADE.captions[0][0],) and corpus[0].actions == (MADE.actions[0][0],)
    there = features_to_joints(corpus[0].features).numpy()
    assert np.abs(there[:, :, 1] - MADE.joints[0, : len(there), :, 1]).max() < 0.1  # the height of every joint
    assert corpus.only(MADE.actions[4][0]).clips and (corpus.std > 0).all()


def test_what_a_reader_refuses_is_skipped_by_name(diary):
    (diary / "d05.npy").unlink()
    with pytest.warns(UserWarning, match="1 skipped, 11 clips used. d05: torn out"):
        assert load_corpus(diary).skipped == (("d05", "torn out"),)


def test_other_folders_go_to_the_readers_before(diary, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is no motion corpus"):
        load_corpus(tmp_path / "empty")


def test_a_name_that_is_taken_and_another_skeleton_are_one_clear_line(diary):
    with pytest.raises(UserError, match="a reader 'published' is registered already.*choose another name"):
        register_reader("published")(Diary)
    with pytest.raises(UserError, match="read on the skeleton of HumanML3D only, not KIT-ML"):
        load_corpus(diary, skeleton=KIT_ML)


def test_the_corpus_imports_no_reader_before_it_is_asked():
    late = "m.startswith('mocapfree_nb.data.') or 'procedural' in m"
    code = f"import sys, mocapfree_nb.corpus; print([m for m in sys.modules if {late}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
