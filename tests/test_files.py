"""Files are written whole or not at all, and damage is named in one line."""

import errno
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mocapfree_nb import files, reading
from mocapfree_nb.denoiser import MotionDenoiser
from mocapfree_nb.files import UserError, write_atomically
from mocapfree_nb.reading import load_array, read_json, save_state
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

    monkeypatch.setattr("mocapfree_nb.networks.save_file", full_disk)
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


# --- what is no regular file, too large, or not where it should be


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


READERS = [getattr(reading, f"read_{what}") for what in ("text", "json", "arrays", "tensors")]
READERS += [reading.load_array, reading.load_state]


@pytest.mark.parametrize("read", READERS)
def test_only_regular_files_are_opened(tmp_path, pipe, read):
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(20 * 10**9)  # takes no place on the disk
    for path, words in (
        (pipe, "a pipe"), ("/dev/zero", "a device"), (tmp_path / "link", "a device"), (tmp_path, "a folder"),
        (tmp_path / "huge", "19,073 MiB; at most"), (tmp_path / "loop", "cannot read"), ("a\0b", "null"),
        (os.fsdecode(b"\xff"), r"\\udcff"), ("x" * 5000, "too long"), ("", "cannot read"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words) as caught:
            read(path)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.stat", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        reading.read_text(tmp_path / "a.txt")
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    with pytest.raises(UserError, match="Permission denied; choose another place"), write_atomically(tmp_path / "a"):
        pass


def test_a_file_outside_the_folder_is_not_read(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside/real").write_text("text")
    (tmp_path / "inside/near").symlink_to("real")
    (tmp_path / "inside/far").symlink_to(tmp_path / "secret")
    (tmp_path / "inside/up").symlink_to(tmp_path)
    assert reading.read_text(tmp_path / "inside/near", within=tmp_path / "inside") == "text"
    for name in ("far", "up/secret", "../secret"):
        with pytest.raises(UserError, match="leads out of the folder"):
            reading.read_text(tmp_path / "inside" / name, within=tmp_path / "inside")


@pytest.mark.parametrize("text, words", [
    ("[" * 100_000, "nested"), ('{"a":' * 500 + "1" + "}" * 500, "nested"), ('{"a": NaN}', "NaN"), ('{"a": 1e999}', "too large"),
    ('{"a": ' + "1" * 10_000 + "}", "too large"), ("[1]", "object, not a list"), ("\x1b[31m", "is not JSON"),
])  # fmt: skip
def test_json_is_bounded(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=words):
        read_json(tmp_path / "a.json")


def npy(shape, rows=b"", kind="<f4") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + rows


@pytest.mark.parametrize("shape", [(10**12, 263), (2**31, 22, 3), (3,)])
def test_an_array_that_claims_more_than_its_file_holds_is_refused(tmp_path, shape):
    (tmp_path / "a.npy").write_bytes(npy(shape))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy(shape))
    for read, name in ((load_array, "a.npy"), (reading.read_arrays, "a.npz")):
        with pytest.raises(UserError, match="more than the file holds"):
            read(tmp_path / name)


def test_members_of_an_archive_are_added_up_before_they_are_unpacked(tmp_path):
    content = npy((2**20,), bytes(2**22))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in "abc":
            archive.writestr(f"{name}.npy", content)
    with pytest.raises(UserError, match="unpacks to 12 MiB; at most 8 MiB"):
        reading.read_arrays(tmp_path / "a.npz", largest=2**23)
    assert set(reading.read_arrays(tmp_path / "a.npz", {"a", "other"}, largest=2**23)) == {"a"}
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(UserError, match="numpy never writes"):
        reading.read_arrays(tmp_path / "b.npz")


# --- numbers


def endless() -> dict:
    value = {}
    value["a"] = value
    return value


@pytest.mark.parametrize("value, words", [
    (torch.tensor([1, float("nan")]), "weights.a holds NaN"), (torch.zeros(1).expand(2**20, 2**20), "more than the file holds"),
    (torch.empty(2**20, device="meta"), "more than the file holds"), (torch.eye(3).to_sparse(), "sparse"),
    (torch.zeros(2, dtype=torch.complex64), "complex64"), (endless(), "nested"),
])  # fmt: skip
def test_state_that_is_no_good_is_neither_saved_nor_loaded(tmp_path, value, words):
    state = {"step": 1, "weights": {"a": value}}
    with pytest.raises(UserError, match=words):
        save_state(tmp_path / "a.pt", state)
    assert not list(tmp_path.iterdir())
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(UserError, match=words):
        reading.load_state(tmp_path / "a.pt")


def test_state_comes_back_as_it_was(tmp_path):
    state = {"a": torch.arange(3), "b": [torch.ones(2), 0.5], "c": {"d": "text"}, "best": None, "score": -float("inf")}
    save_state(tmp_path / "a.pt", state)
    again = reading.load_state(tmp_path / "a.pt")
    assert torch.equal(again["a"], state["a"]) and torch.equal(again["b"][0], torch.ones(2))
    assert again["c"] == {"d": "text"} and again["score"] == -float("inf")


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path):
    model = MotionDenoiser(**SIZE)
    model.save_pretrained(tmp_path / "good")
    before = (tmp_path / "good/model.safetensors").read_bytes()
    with torch.no_grad():
        model.frames_in.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="frames_in.weight holds NaN"):
        model.save_pretrained(tmp_path / "good")
    assert (tmp_path / "good/model.safetensors").read_bytes() == before
    save_file(model.state_dict(), tmp_path / "good/model.safetensors")
    for load in (MotionDenoiser.from_folder, MotionDenoiser.from_pretrained):
        with pytest.raises(UserError, match="frames_in.weight holds NaN"):
            load(tmp_path / "good")
    with pytest.raises(UserError, match="NaN or infinite"):
        files.write_json(tmp_path / "a.json", {"a": [float("inf")]})


@pytest.mark.parametrize("change, words", [
    ({"layers": 10**6}, "out of range"), ({"heads": 0}, "out of range"), ({"dropout": 7}, "out of range"),
    ({"width": -4}, "out of range"),
    ({"width": 10**5, "layers": 512, "heads": 1}, "does not fit"), ({"prediction": ["x0"]}, "str is expected"),
    ({"schedule": "__init__"}, "schedule"), ({"layers": True}, "int is expected"),
    ({"architecture": ["MotionDenoiser"]}, "holds a"),
    ({"architecture": None}, "holds a None"), ({"num_timesteps": 2**63}, "out of range"), ({"x\x1b[31m": 1}, "no setting"),
])  # fmt: skip
def test_settings_are_bounded_before_anything_is_built(tmp_path, change, words):
    MotionDenoiser(**SIZE).save_pretrained(tmp_path)
    config = read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=words) as caught:
        MotionDenoiser.from_folder(tmp_path)
    assert str(caught.value).isprintable()


# --- writing


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/real").write_text("old")
    (tmp_path / "link").symlink_to("there/real")
    (tmp_path / "new").symlink_to("there/not yet")
    for name, target in (("link", "real"), ("new", "not yet")):
        with write_atomically(tmp_path / name) as temporary:
            temporary.write_text("new")
        assert (tmp_path / name).is_symlink() and (tmp_path / "there" / target).read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["not yet", "real"]


def test_only_regular_files_are_replaced(tmp_path, pipe):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, words in (
        (pipe, "a pipe or a device"), ("/dev/null", "a pipe or a device"), (tmp_path, "a folder"),
        (tmp_path / "loop", "cannot write"),
        (tmp_path / ("x" * 300), "too long"), (tmp_path / "a\0b", "null"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words), write_atomically(path):
            pass
    assert pipe.is_fifo() and Path("/dev/null").is_char_device()


def test_the_longest_name_a_file_system_takes_can_be_written(tmp_path):
    with write_atomically(tmp_path / ("x" * 251 + ".npy")) as temporary:
        temporary.write_text("")
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_removed(tmp_path):
    code = "import os, sys\nfrom mocapfree_nb.files import write_atomically\nwith write_atomically(sys.argv[1]): os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "report.html")])
    (tmp_path / ".report.html.mine").write_text("")
    assert len(list(tmp_path.iterdir())) == 2
    with write_atomically(tmp_path / "report.html"):
        files.remove_leftovers(tmp_path)  # not what a living process is about to write
    assert sorted(path.name for path in tmp_path.iterdir()) == [".report.html.mine", "report.html"]


def test_a_setting_of_a_hundred_thousand_letters_is_told_in_a_short_line():
    from mocapfree_nb.denoiser import MotionDenoiser
    from mocapfree_nb.networks import build_network

    with pytest.raises(UserError) as told:
        build_network(MotionDenoiser, {"schedule": "x" * 100_000}, {}, "config.json")
    assert len(str(told.value)) < 1000 and "cosine" in str(told.value)
