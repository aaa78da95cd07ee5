"""How SLURM is asked, and how it writes times."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

from dreamer.errors import UserError


def ask(*command: str, within_s: float = 60, preexec_fn: Callable[[], None] | None = None) -> str:
    """What a command of SLURM prints. Raises UserError where it fails or takes longer: then the
    controller counts as unreachable."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=within_s, stdin=subprocess.DEVNULL,
            preexec_fn=preexec_fn,
        )  # fmt: skip
    except FileNotFoundError:
        raise UserError(f"no {command[0]} here: ask from a machine of the cluster") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command[0]}: {' '.join(str(error).split())}") from None
    if done.returncode != 0:
        raise UserError(f"{command[0]}: {' '.join(done.stderr.split()) or done.returncode}")
    return done.stdout


def seconds_of(limit: str) -> int | None:
    """Seconds of a time limit [days-]hours:minutes:seconds; None for UNLIMITED and so on."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", limit)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
