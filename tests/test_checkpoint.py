"""Checkpoints written while training goes on: what was, when it was, and no failure in silence."""

import threading

import pytest
import torch

from dreamer.checkpoint import CheckpointWriter, checkpoint_paths, load_checkpoint


def test_what_changes_after_save_is_not_in_it(tmp_path):
    writer, weight = CheckpointWriter(tmp_path), torch.zeros(3)
    go_on = threading.Event()
    writer.save(1, 2, {"weights": [weight], "none": None, "rates": (1e-3, 2)}, go_on.wait)
    assert not checkpoint_paths(tmp_path)  # what it points to is not on the disk yet
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
    writer.save(1, 2, {}, disk_full)
    with pytest.raises(OSError, match="no space left"):
        writer.save(2, 3, {}, lambda: None)
    writer.save(3, 4, {}, lambda: None)
    writer.wait()
    assert [path.name for path in checkpoint_paths(tmp_path)] == [
        "checkpoint-0000000004-000000003.pt"
    ]
