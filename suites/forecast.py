"""What a suite will take: time from measured throughput (with its source), disk and memory."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dreamer.run_folder import State, size_text
from dreamer.variants import behaviour_card
from suites.execution.executor import Found
from suites.language.suite import Run
from suites.record.provenance import ROOT

# For kinds of runs that this suite has not measured: our earlier measurements, then papers.
THROUGHPUT = [ROOT / "results" / kind / "throughput.csv" for kind in ("measured", "published")]
# For kinds that nobody measured: slow, so that days of work never start without a question.
ASSUMED_ENV_STEPS_PER_SECOND = {"cpu": 1.0, "gpu": 10.0}
MIN_MEASURED_ENV_STEPS = 1000  # in shorter runs starting takes most of the time
IMAGE_BYTES = 64 * 64 * 3
# Activations of an update at B = L = 50 and 32 channels in fp32; a process without them.
ACTIVATION_BYTES, PROCESS_BYTES = 8.4e9, 0.8e9


class Rate(NamedTuple):
    """Throughput of one kind of run."""

    env_steps_per_second: float
    source: str


class Forecast(NamedTuple):
    """The unfinished runs, and what they will take."""

    states: dict[str, int]  # runs by state
    hours: float  # of computing, over all unfinished runs
    elapsed_hours: float  # on this many workers
    device: str  # gpu | cpu
    workers: int
    sources: list[str]  # where the throughput was measured, and what for
    assumed: list[str]  # kinds of runs that were never measured
    disk_gb: float
    memory_gb: float  # of the largest run, GPU memory where there is a GPU


def make_forecast(
    runs: Sequence[Run],
    statuses: Mapping[str, Found],
    device: str,
    workers: int,
) -> Forecast:
    """What the unfinished of these runs will take on `workers` workers.

    `statuses`: {run_id: (state, status.json)}; `device`: gpu or cpu.
    """
    states = Counter(statuses[run.run_id][0] for run in runs)
    open_runs = [run for run in runs if statuses[run.run_id][0] != State.DONE]
    table = _measured_here(runs, statuses)
    for path in THROUGHPUT:
        table += _measured_before(path)
    seconds, sources, assumed = 0.0, set(), set()
    for run in open_runs:
        left = run.config["env_steps"] - ((statuses[run.run_id][1] or {}).get("env_steps") or 0)
        rate = _rate(table, run.config, device)
        if rate is None:
            pace = ASSUMED_ENV_STEPS_PER_SECOND[device]
            assumed.add(kind_of(run.config))
        else:
            pace = rate.env_steps_per_second
            sources.add(f"{kind_of(run.config)}: {rate.source}")
        seconds += max(0, left) / pace
    hours = seconds / 3600
    return Forecast(
        states={state: states[state] for state in State if states[state]},
        hours=hours,
        elapsed_hours=hours / max(1, min(workers, len(open_runs))),
        device=device,
        workers=workers,
        sources=sorted(sources),
        assumed=sorted(assumed),
        disk_gb=sum(disk_bytes(run.config) for run in open_runs) / 1e9,
        memory_gb=max((memory_bytes(run.config) for run in open_runs), default=0) / 1e9,
    )


def disk_bytes(config: Mapping[str, Any]) -> float:
    """Disk of a finished run: the images of its replay, which are most of it."""
    return config["env_steps"] / config["action_repeat"] * IMAGE_BYTES


def memory_bytes(config: Mapping[str, Any]) -> float:
    """Memory of a run, roughly: the activations of the image networks, and the process."""
    images = config["batch_size"] * config["length"] * config["conv_depth"]
    return PROCESS_BYTES + ACTIVATION_BYTES * images / (50 * 50 * 32)


def kind_of(config: Mapping[str, Any]) -> str:
    """The kind of a run, which decides its speed."""
    return f"{config['preset']} {config['behaviour']} {config['representation']}"


def text(forecast: Forecast) -> str:
    """The forecast as a few lines."""
    unit = "GPU hours" if forecast.device == "gpu" else "CPU hours"
    lines = [
        "runs      " + (", ".join(f"{n} {state}" for state, n in forecast.states.items()) or "none")
    ]
    lines.append(
        f"time      {_amount(forecast.hours)} {unit}, "
        f"{duration(forecast.elapsed_hours)} with {forecast.workers} at a time"
    )
    lines += [f"          {source}" for source in forecast.sources]
    pace = f"{ASSUMED_ENV_STEPS_PER_SECOND[forecast.device]:g} env_steps/s are assumed"
    lines += [f"          {kind}: never measured; {pace}" for kind in forecast.assumed]
    lines.append(f"disk      {size_text(forecast.disk_gb * 1e9)} of replay")
    lines.append(f"memory    {size_text(forecast.memory_gb * 1e9)} per run, roughly")
    return "\n".join(lines)


def duration(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.0f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:,.1f} days"


def _amount(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


class _Row(NamedTuple):
    preset: str
    behaviour: str
    representation: str
    device: str
    rate: Rate


def _measured_here(runs: Sequence[Run], statuses: Mapping[str, Found]) -> list[_Row]:
    """Rates of the finished ones of these runs."""
    rows = []
    for run in runs:
        state, found = statuses[run.run_id]
        status = found or {}
        rate = status.get("env_steps_per_second")
        steps = status.get("env_steps") or 0
        if state == State.DONE and rate and steps >= MIN_MEASURED_ENV_STEPS:
            c = run.config
            source = Rate(rate, f"{rate:.3g} env_steps/s, {run.run_id} on {status.get('host')}")
            row = (c["preset"], c["behaviour"], c["representation"], status.get("device", "cpu"))
            rows.append(_Row(*row, source))
    return rows


def _measured_before(path: Path) -> list[_Row]:
    """The rates in a committed table; none if there is no such file."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [
                _Row(
                    r["preset"], r["behaviour"], r["representation"], r["device"],
                    Rate(float(r["env_steps_per_second"]),
                         f"{r['env_steps_per_second']} env_steps/s, {r['source']}"),
                )
                for r in csv.DictReader(file)
            ]  # fmt: skip
    except FileNotFoundError:
        return []


def _rate(table: Sequence[_Row], config: Mapping[str, Any], device: str) -> Rate | None:
    """The nearest measurement: of the same preset and device, and if possible of the same behaviour
    and representation."""
    rows = [row for row in table if (row.preset, row.device) == (config["preset"], device)]

    def differences(row: _Row) -> tuple[bool, bool]:
        behaviour_differs = row.behaviour != config["behaviour"]
        return behaviour_differs, row.representation != config["representation"]

    # A step of planning takes far longer than one of a policy, so neither stands for the other.
    plans = behaviour_card(config["behaviour"]).plans
    rows = [row for row in rows if behaviour_card(row.behaviour).plans == plans]
    return min(rows, key=differences).rate if rows else None
