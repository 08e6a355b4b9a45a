"""Files are written whole or not at all, and damage is named in one line."""

import errno

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.files import UserError, load_array, read_json, save_state, write_atomically
from mocapfree_nb.retrieval import RetrievalModel

SIZE = {"width": 32, "layers": 1, "heads": 2, "feedforward": 32}


def full_disk(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_last_checkpoint_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_state(path, {"step": 1})
    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(UserError, match="No space left.*untouched"):
        save_state(path, {"step": 2})
    assert torch.load(path, weights_only=True) == {"step": 1} and list(tmp_path.iterdir()) == [path]


def test_an_interruption_while_writing_leaves_nothing_behind(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another place"), write_atomically(tmp_path / "file" / "x.json"):
        pass


def test_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "clip.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="clip.npy"):
        load_array(path)
    torch.save({"x": object}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="safetensors"):
        MotionDenoiser.from_folder(tmp_path)


def test_a_full_disk_leaves_the_model_that_was_there(tmp_path, monkeypatch):
    model = MotionDenoiser(**SIZE)
    model.save_pretrained(tmp_path)

    monkeypatch.setattr("mocapfree_nb.files.save_file", full_disk)
    with pytest.raises(UserError, match="No space left.*untouched"):
        MotionDenoiser(**SIZE).save_pretrained(tmp_path)
    again = MotionDenoiser.from_folder(tmp_path)
    assert torch.equal(again.frames_in.weight, model.frames_in.weight)


def test_from_pretrained_refuses_weights_that_do_not_fit(tmp_path):
    model = MotionDenoiser(**SIZE)
    model.save_pretrained(tmp_path)
    assert torch.equal(MotionDenoiser.from_pretrained(str(tmp_path)).frames_in.weight, model.frames_in.weight)
    with pytest.raises(UserError, match="holds a MotionDenoiser"):
        RetrievalModel.from_pretrained(str(tmp_path))
    state = model.state_dict()
    del state["frames_out.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="frames_out.weight"):
        MotionDenoiser.from_pretrained(str(tmp_path))


def test_a_model_comes_back_as_it_was_saved_and_another_shape_is_refused(tmp_path):
    model = MotionDenoiser(**SIZE)
    model.save_pretrained(tmp_path)
    again = MotionDenoiser.from_folder(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    config = read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(str(config | {"width": 64}).replace("'", '"'))
    with pytest.raises(UserError, match="another shape"):
        MotionDenoiser.from_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"wings": 2}')
    with pytest.raises(UserError, match="no setting 'wings'"):
        MotionDenoiser.from_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="truncated"):
        MotionDenoiser.from_folder(tmp_path)
