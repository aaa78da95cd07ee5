"""What the machine does for speed, the same for every run: allocator, threads, device."""

from __future__ import annotations

import ctypes
import os

import torch

from dreamer.config import Config
from dreamer.errors import UserError

# glibc's mallopt parameters (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def prepare_machine(config: Config) -> torch.device:
    """Settings of this process, and the device that the run computes on.

    Raises UserError if the configuration asks for a GPU and there is none.
    """
    keep_pages()
    torch.set_flush_denormal(True)  # denormal numbers are slow, and as good as zero here
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    cores = int(asked) if asked.isdigit() else len(os.sched_getaffinity(0))
    beside = config.environments if config.collect == "parallel" else 0  # on a core each
    torch.set_num_threads(max(1, cores - beside))
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise UserError("device: cuda is asked for, but torch sees no GPU here; set device: auto")
    torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    return torch.device("cuda" if there and config.device != "cpu" else "cpu")


def mixed_precision(config: Config, device: torch.device) -> torch.autocast:
    """Where matrix products and convolutions run in half precision, if `precision` is bf16.

    Weights are converted once inside it and forgotten at its end. Parameters, Adam, KL, std,
    returns, log-probabilities and the GRU's carry stay in single precision (`full_precision`).
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def keep_pages() -> None:
    """Tells glibc's allocator to keep freed memory instead of giving it back to the kernel.

    An update allocates and frees the same large activations again and again; mapping their pages
    anew each time takes a third of the update on a CPU. Does nothing without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(M_MMAP_THRESHOLD, 2**31 - 1)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 256 * 2**20)
