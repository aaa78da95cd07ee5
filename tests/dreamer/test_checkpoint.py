"""Checkpoints written while training goes on: each holds one moment, and failures are reported."""

import os
import tarfile
import threading
import zipfile

import pytest
import torch
from helpers import ROOT, python, small_disk

from dreamer import run_folder
from dreamer.checkpoint import CheckpointWriter, checkpoint_paths, load_checkpoint, save_checkpoint
from dreamer.errors import DamagedError, describe


def test_what_changes_after_save_is_not_in_it(tmp_path):
    writer, weight = CheckpointWriter(tmp_path), torch.zeros(3)
    go_on = threading.Event()
    content = {"weights": [weight], "none": None, "rates": (1e-3, 2)}
    writer.save(run_folder.checkpoint_name(2, 1), content, go_on.wait)
    assert not checkpoint_paths(tmp_path)  # the file that it points to is not on the disk yet
    weight += 1
    go_on.set()
    writer.wait()
    (path,) = checkpoint_paths(tmp_path)
    content = load_checkpoint(path)
    assert content["weights"][0].tolist() == [0, 0, 0]
    assert content["none"] is None and content["rates"] == (1e-3, 2)


def test_a_failure_is_raised_by_the_next_who_asks(tmp_path):
    def disk_full() -> None:
        raise OSError("no space left")

    writer = CheckpointWriter(tmp_path)
    writer.save(run_folder.checkpoint_name(2, 1), {}, disk_full)
    with pytest.raises(OSError, match="no space left"):
        writer.save(run_folder.checkpoint_name(3, 2), {}, lambda: None)
    writer.save(run_folder.checkpoint_name(4, 3), {}, lambda: None)
    writer.wait()
    assert [path.name for path in checkpoint_paths(tmp_path)] == [
        "checkpoint-0000000004-000000003.pt"
    ]


def test_a_disk_that_is_full_is_named_and_the_one_before_stays(tmp_path):
    with small_disk(tmp_path / "disk", 4) as disk:
        save_checkpoint(disk, "checkpoint-1.pt", {"weights": torch.zeros(400_000)})
        with pytest.raises(Exception) as caught:
            save_checkpoint(disk, "checkpoint-2.pt", {"weights": torch.zeros(900_000)})
        assert "No space left on device" in describe(caught.value)
        assert run_folder.is_whole(disk / "checkpoint-1.pt")
        assert checkpoint_paths(disk) == [disk / "checkpoint-1.pt"]


def test_the_checksum_is_in_the_file_which_stays_one_that_torch_reads(tmp_path):
    path = save_checkpoint(tmp_path, "checkpoint-2-1.pt", {"weight": torch.arange(5)})
    assert list(tmp_path.iterdir()) == [path]
    assert run_folder.is_whole(path)
    assert torch.load(path, weights_only=True)["weight"].tolist() == [0, 1, 2, 3, 4]
    assert len(zipfile.ZipFile(path).comment) == 64


def test_every_change_of_a_checkpoint_is_found(tmp_path):
    path = save_checkpoint(tmp_path, "checkpoint-2-1.pt", {"weight": torch.arange(5)})
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert not run_folder.is_whole(path)
    for size in (0, 1, 63, 64, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(DamagedError, match=r"checkpoint-\d+-\d+\.pt: damaged"):
            load_checkpoint(path)
    path.write_bytes(data)
    assert load_checkpoint(path)["weight"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_damaged_and_keeps_nobody_waiting(tmp_path, make):
    make(tmp_path / "checkpoint-1.pt")
    with pytest.raises(DamagedError, match="not a regular file"):
        load_checkpoint(tmp_path / "checkpoint-1.pt")
    with pytest.raises(OSError):
        run_folder.is_whole(tmp_path / "checkpoint-1.pt")


def test_checkpoints_of_earlier_code_are_whole_by_the_file_beside_them(tmp_path):
    with tarfile.open(ROOT / "tests" / "data" / "earlier_runs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    paths = sorted(tmp_path.glob("results/runs/*/checkpoints/*.pt"))
    assert len(paths) == 2
    for path in paths:
        assert load_checkpoint(path)["counters"]["env_steps"] in (160, 240)
    run_folder.checksum_path(paths[0]).write_bytes(b"\xff\x00")
    paths[1].write_bytes(paths[1].read_bytes() + b"x")
    assert not any(map(run_folder.is_whole, paths))
    run_folder.checksum_path(paths[0]).unlink()
    assert not run_folder.is_whole(paths[0])


KILLED = """
import shutil, sys
from pathlib import Path
import torch
from dreamer import run_folder
from dreamer.checkpoint import checkpoint_paths, load_checkpoint, save_checkpoint
from helpers import killed_at

ours = ("dreamer/checkpoint.py", "dreamer/run_folder.py")

def save(value):
    content = {"value": torch.full((1000,), value)}
    save_checkpoint(folder, run_folder.checkpoint_name(100, 7), content)

folder, kind = Path(sys.argv[1]), sys.argv[2]
number, seen = 0, set()
while True:
    shutil.rmtree(folder, ignore_errors=True)
    if kind != "first":
        save(1)
    if kind == "earlier":  # as earlier code left it: no seal, but a file beside it
        [path] = checkpoint_paths(folder)
        torch.save({"value": torch.full((1000,), 1)}, path)
        run_folder.checksum_path(path).write_text(f"{run_folder.sha256(path)}  {path.name}")
    killed = killed_at(number, lambda: save(2), ours)
    values = {int(load_checkpoint(path)["value"][0]) for path in checkpoint_paths(folder)}
    assert values <= {1, 2} and (values or kind == "first"), (number, values)
    seen |= values
    if not killed:
        assert values == {2}
        break
    number += 1
assert seen == ({2} if kind == "first" else {1, 2})
print(number)
"""


@pytest.mark.parametrize("kind", ["first", "again", "earlier"])
def test_a_kill_at_any_line_leaves_the_one_that_was_there_or_the_new_one(tmp_path, kind):
    """Also of a checkpoint that is saved again under its own name."""
    done = python(KILLED, tmp_path / "checkpoints", kind)
    assert done.returncode == 0 and int(done.stdout) > 20, done.stderr
