"""Files of a run: whole or absent, summed, owned by one process, and errors that say what to do."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aip_tf import files
from aip_tf.run_state import RunState


def test_the_home_folder_is_meant_everywhere(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    files.write_text("~/run/a.txt", "text")
    assert (tmp_path / "run" / "a.txt").read_text() == "text"
    with files.Lock("~/run"):
        assert (tmp_path / "run" / "lock").is_file()


def test_a_file_is_replaced_whole_or_stays_as_it_was(tmp_path):
    path = tmp_path / "state.json"
    files.write_text(path, "old")

    def save(unfinished):
        unfinished.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write(path, save)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2  # as after a kill: half of a file under another name
    files.tidy(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_tidying_leaves_what_others_wrote(tmp_path):
    chapter = tmp_path / "docs" / "unfinished_chapters" / "1.txt"
    chapter.parent.mkdir(parents=True)
    chapter.write_text("mine")
    (tmp_path / "unfinished_notes.txt").write_text("mine")
    files.tidy(tmp_path)
    assert chapter.read_text() == "mine" and (tmp_path / "unfinished_notes.txt").exists()


def test_what_is_written_reaches_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(files.os, "fsync", lambda handle: steps.append("fsync"))
    rename = os.replace
    monkeypatch.setattr(files.os, "replace", lambda *p: (steps.append("rename"), rename(*p)))
    files.write_text(tmp_path / "a", "text")
    assert steps == ["fsync", "rename", "fsync"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("7", "8"),
        lambda text: text[:-9],
        lambda text: text.replace("record", "recorder"),
        lambda text: "[]",
    ],
    ids=["edited", "cut off", "renamed", "another"],
)
def test_a_record_that_was_edited_is_none(tmp_path, damage, caplog):
    path, record = tmp_path / "export.json", {"bytes": 7, "inputs": {"seed": 0}}
    assert files.read_record(path) is None and not caplog.text
    files.write_record(path, record)
    assert files.read_record(path) == record
    path.write_text(damage(path.read_text()))
    assert files.read_record(path) is None
    assert "export.json' is damaged or was edited" in caplog.text


def test_a_damaged_file_is_noticed(tmp_path):
    path = tmp_path / "a"
    found = files.write_text(path, "text")
    assert files.is_whole(path, found)
    path.write_text("tExt")
    assert not files.is_whole(path, found)
    path.unlink()
    assert not files.is_whole(path, found)


def full_disk(path):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_of_h5py(path):
    raise OSError("Unable to write (error message = 'No space left on device')")


def limited(path):
    raise OSError(errno.EFBIG, "File too large")


@pytest.mark.parametrize("save", [full_disk, full_disk_of_h5py, limited])
def test_a_full_disk_is_one_paragraph_and_leaves_no_rubbish(tmp_path, save):
    why = "no file may grow so large" if save is limited else "disk is full"
    with pytest.raises(ValueError, match=f"{why}.*the same command goes on"):
        files.write(tmp_path / "a", save)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_made_are_explained(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="a file has that name"):
        files.make_folder(tmp_path / "file")
    with pytest.raises(ValueError, match="a part of that path is a file"):
        files.make_folder(tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="name is too long") as info:
        files.make_folder(tmp_path / ("x" * 300))
    assert len(str(info.value)) < 300


def test_a_folder_without_permission_is_explained(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write everywhere
    with pytest.raises(ValueError, match="no permission"):
        files.make_folder(tmp_path / "run")


def test_one_run_owns_a_folder_in_its_own_process_too(tmp_path):
    refused = []

    def lock_in_a_thread():
        with pytest.raises(ValueError, match="another pruning of this process is at work"):
            files.Lock(tmp_path, "training").__enter__()
        refused.append(True)

    with files.Lock(tmp_path, "pruning"):
        with pytest.raises(ValueError, match="another pruning of this process"):
            files.Lock(tmp_path, "pruning").__enter__()
        thread = threading.Thread(target=lock_in_a_thread)
        thread.start()
        thread.join()
    assert refused
    with files.Lock(tmp_path, "pruning"):
        pass


def test_a_pipe_or_a_folder_in_place_of_a_file_is_named(tmp_path):
    for name, read in (
        ("lock", lambda path: files.Lock(path.parent).__enter__()),
        ("state.json", lambda path: RunState(path.parent, {})),
        ("record.json", files.read_record),
    ):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name}', which is a pipe and no file"):
            read(tmp_path / name)
    with pytest.raises(ValueError, match="which is a folder"):
        files.check_regular(tmp_path)


def lock_elsewhere(folder):
    """Another process tries to own the folder; what it says."""
    package = Path(files.__file__).parent
    code = (
        "import sys, types; p = types.ModuleType('aip_tf')\n"  # without TensorFlow: in a moment
        f"p.__path__ = [{str(package)!r}]; sys.modules['aip_tf'] = p\n"
        "from aip_tf import files\n"
        "try:\n    files.Lock(sys.argv[1]).__enter__(); print('owned')\n"
        "except ValueError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_second_process_is_told_who_owns_the_folder(tmp_path):
    with files.Lock(tmp_path / "run"):
        with files.Lock(tmp_path / "run", "pruning"):
            pass
        assert f"process {os.getpid()} on " in lock_elsewhere(tmp_path / "run")
    assert lock_elsewhere(tmp_path / "run") == "owned\n"
    with files.Lock(tmp_path / "run"):  # that process is dead
        pass
