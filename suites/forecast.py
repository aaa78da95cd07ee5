"""What a suite will take: time, disk at its peak and memory, from measurements with their source.

Throughput is that of the suite's own runs where there are any. Memory, checkpoints and the ratio by
which replay is packed are measured per preset and domain, in results/measured.
"""

from __future__ import annotations

import csv
import math
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dreamer.errors import counted
from dreamer.run_folder import State, size_text
from dreamer.variants import behaviour_card
from suites.execution.executor import Found
from suites.language.identity import preset_settings
from suites.language.suite import Run
from suites.record.provenance import ROOT

# For kinds of runs that this suite has not measured: our earlier measurements, then papers.
THROUGHPUT = [ROOT / "results" / kind / "throughput.csv" for kind in ("measured", "published")]
# For kinds that nobody measured: slow, so that days of work never start without a question.
ASSUMED_ENV_STEPS_PER_SECOND = {"cpu": 1.0, "gpu": 10.0}
MIN_MEASURED_ENV_STEPS = 1000  # in shorter runs starting takes most of the time
IMAGE_BYTES = 64 * 64 * 3
# domain, ratio, source: how many times smaller than its pixels a replay is on disk.
REPLAY = ROOT / "results" / "measured" / "replay.csv"
# preset, behaviour, device, start_gb, peak_gb, checkpoint_mb, source: of a run's process.
MEMORY = ROOT / "results" / "measured" / "memory.csv"
CHECKPOINTS = 4  # of a run at a time: two, one that a larger budget needs, one being written


class Forecast(NamedTuple):
    """The unfinished runs, and what they will take."""

    states: dict[str, int]  # runs by state
    hours: float  # of computing, over all unfinished runs
    elapsed_hours: float  # on this many workers
    device: str  # gpu | cpu
    workers: int
    sources: list[str]  # where the throughput was measured, and what for
    assumed: list[str]  # kinds of runs that were never measured
    disk_gb: float  # more than now, at the peak
    memory_gb: float | None  # of the largest run's process
    notes: list[str]  # what is not known about disk and memory


def make_forecast(
    runs: Sequence[Run],
    statuses: Mapping[str, Found],
    device: str,
    workers: int,
    ended: Collection[str] = (),
) -> Forecast:
    """What the unfinished runs will take with this many `workers`.

    `statuses`: {run_id: (state, status.json)}; `device`: gpu or cpu; `ended`: ids of runs that
    cannot go on.
    """
    states = Counter(statuses[run.run_id][0] for run in runs)
    unfinished = [run for run in runs if statuses[run.run_id][0] != State.DONE]
    open_runs = [run for run in unfinished if run.run_id not in ended]
    done_steps = {r.run_id: (statuses[r.run_id][1] or {}).get("env_steps") or 0 for r in open_runs}
    table = _measured_here(runs, statuses)
    for path in THROUGHPUT:
        table += _table(path)
    seconds, sources, assumed = 0.0, set(), set()
    for run in open_runs:
        left = run.config["env_steps"] - done_steps[run.run_id]
        if (row := _nearest(table, run.config, device)) is None:
            rate = ASSUMED_ENV_STEPS_PER_SECOND[device]
            assumed.add(kind_of(run.config))
        else:
            rate = float(row["env_steps_per_second"])
            sources.add(f"{kind_of(run.config)}: {rate:.3g} env_steps/s, {row['source']}")
        seconds += max(0, left) / rate
    hours = seconds / 3600
    memory, notes = _memory(open_runs, device)
    if ended:
        notes.append(f"not counted: {counted(len(ended), 'run')} without replay; see --fresh")
    return Forecast(
        states={state: states[state] for state in State if states[state]},
        hours=hours,
        elapsed_hours=hours / max(1, min(workers, len(open_runs))),
        device=device,
        workers=workers,
        sources=sorted(sources),
        assumed=sorted(assumed),
        disk_gb=_peak_bytes(open_runs, done_steps, workers) / 1e9,
        memory_gb=memory,
        notes=[*_replay_notes(open_runs), *notes],
    )


def free_gb(results: Path) -> float:
    """Free disk where the results folder is or will be."""
    there = next(path for path in [results.resolve(), *results.resolve().parents] if path.exists())
    usage = shutil.disk_usage(there)
    return usage.free / 1e9 if usage.total else math.inf  # of a file system without a size


def replay_bytes(config: Mapping[str, Any], env_steps: float) -> float:
    """Disk of a replay after so many env_steps: its images, which are most of it."""
    measured = _replay_ratios().get(_domain(config))
    ratio = float(measured["ratio"]) if measured else 1.0
    return env_steps / config["action_repeat"] * IMAGE_BYTES / ratio


def _peak_bytes(runs: Sequence[Run], done_steps: Mapping[str, int], workers: int) -> float:
    """What the disk holds more than now, when most is on it: checkpoints of all runs; replays that
    stay, of all runs; and of the others those of the largest `workers` runs."""
    kept, passing = 0.0, []
    for run in runs:
        config, done = run.config, done_steps[run.run_id]
        growth = replay_bytes(config, max(0, config["env_steps"] - done))
        if config["keep_replay"] == "always":
            kept += growth
        else:
            passing.append(growth)
        row = _memory_row(config, "cpu")
        if row and not done:
            kept += CHECKPOINTS * float(row["checkpoint_mb"]) * 1e6
    return kept + sum(sorted(passing)[-workers:])


def _replay_notes(runs: Sequence[Run]) -> list[str]:
    domains = sorted({_domain(run.config) for run in runs} - set(_replay_ratios()))
    return [f"disk: replay of {', '.join(domains)} not measured, counted raw"] if domains else []


def _memory(runs: Sequence[Run], device: str) -> tuple[float | None, list[str]]:
    """Memory in GB of the largest run's process, with its source or what is not known."""
    known, unknown = {}, set()
    for run in runs:
        row = _memory_row(run.config, device)
        if row is None:
            unknown.add(kind_of(run.config))
        else:
            known[_memory_gb(row, run.config)] = row
    notes = []
    if known:
        notes.append(f"memory: {known[max(known)]['source']}")
    if unknown:
        where = "a GPU" if device == "gpu" else "a CPU"
        notes.append(f"memory: never measured on {where}: {', '.join(sorted(unknown))}")
    return max(known, default=None), notes


def _memory_gb(row: Mapping[str, str], config: Mapping[str, Any]) -> float:
    """The measured peak; what updates add to the start grows with the images of a batch."""

    def images(c: Mapping[str, Any]) -> float:
        return float(c["batch_size"] * c["length"] * c["conv_depth"])

    start, peak = float(row["start_gb"]), float(row["peak_gb"])
    return start + (peak - start) * images(config) / images(preset_settings(config["preset"]))


def _memory_row(config: Mapping[str, Any], device: str) -> Mapping[str, str] | None:
    """The measurement of this preset on this device, if possible of the same behaviour."""
    rows = [r for r in _table(MEMORY) if (r["preset"], r["device"]) == (config["preset"], device)]
    return min(rows, key=lambda row: row["behaviour"] != config["behaviour"], default=None)


def _domain(config: Mapping[str, Any]) -> str:
    """`walker` of walker_run, `atari` of atari:pong, `my_module` of my_module:make."""
    task = config["task"]
    return task.partition(":" if ":" in task else "_")[0]


def _replay_ratios() -> dict[str, Mapping[str, str]]:
    return {row["domain"]: row for row in _table(REPLAY)}


@cache
def _table(path: Path) -> list[dict[str, str]]:
    """The rows of a committed table; none if there is no such file."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def kind_of(config: Mapping[str, Any]) -> str:
    """The kind of a run, which decides its speed."""
    return f"{config['preset']} {config['behaviour']} {config['representation']}"


def text(forecast: Forecast, free: float) -> str:
    """The forecast as a few lines. `free`: of the disk, in GB."""
    unit = "GPU hours" if forecast.device == "gpu" else "CPU hours"
    states = ", ".join(f"{n} {state}" for state, n in forecast.states.items()) or "none"
    lines = [
        f"runs      {states}",
        f"time      {_amount(forecast.hours)} {unit}, "
        f"{duration(forecast.elapsed_hours)} with {forecast.workers} at a time",
    ]
    lines += [f"          {source}" for source in forecast.sources]
    pace = f"{ASSUMED_ENV_STEPS_PER_SECOND[forecast.device]:g} env_steps/s are assumed"
    lines += [f"          {kind}: never measured; {pace}" for kind in forecast.assumed]
    short = ": too small" if forecast.disk_gb > free else ""
    lines.append(
        f"disk      {size_text(forecast.disk_gb * 1e9)} more at its peak, replay and checkpoints; "
        f"{size_text(free * 1e9)} are free{short}"
    )
    if forecast.memory_gb is not None:
        lines.append(f"memory    {size_text(forecast.memory_gb * 1e9)} per run")
    lines += [f"          {note}" for note in forecast.notes]
    return "\n".join(lines)


def duration(hours: float) -> str:
    if hours < 1:
        return counted(round(hours * 60), "minute")
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:,.1f} days"


def _amount(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _measured_here(runs: Sequence[Run], statuses: Mapping[str, Found]) -> list[dict[str, Any]]:
    """The finished ones of these runs, as rows of a throughput table."""
    rows = []
    for run in runs:
        state, found = statuses[run.run_id]
        status = found or {}
        rate, steps = status.get("env_steps_per_second"), status.get("env_steps") or 0
        if state == State.DONE and rate and steps >= MIN_MEASURED_ENV_STEPS:
            rows.append({
                **{key: run.config[key] for key in ("preset", "behaviour", "representation")},
                "device": status.get("device", "cpu"),
                "env_steps_per_second": rate,
                "source": f"{run.run_id} on {status.get('host')}",
            })  # fmt: skip
    return rows


def _nearest(
    table: Sequence[Mapping[str, Any]], config: Mapping[str, Any], device: str
) -> Mapping[str, Any] | None:
    """The nearest measurement: of the same preset and device, and if possible of the same behaviour
    and representation."""
    # A step of planning takes far longer than one of a policy, so neither stands for the other.
    plans = behaviour_card(config["behaviour"]).plans
    rows = [
        row
        for row in table
        if (row["preset"], row["device"]) == (config["preset"], device)
        and behaviour_card(row["behaviour"]).plans == plans
    ]
    keys = ("behaviour", "representation")
    return min(rows, key=lambda row: [row[key] != config[key] for key in keys], default=None)
