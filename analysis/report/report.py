"""One self-contained HTML page: figures, tables, verdict, videos, runs, interactive curves.

The page works offline: pictures are data URLs, plotly.js (of the package plotly), script and style
are embedded. report.html.j2 holds its text and escapes everything that it shows; this module
prepares the numbers.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis.count import statistics, verdict
from analysis.count.averages import common_range
from analysis.count.methods import PUBLISHED_STYLES, Style
from analysis.count.summary import Completeness, Summary
from analysis.draw import tables
from analysis.draw.images import ERROR_WORDS
from analysis.draw.page import pretty
from analysis.draw.save import small_picture
from analysis.draw.suite import Drawn, levels, metric_label, prediction_title
from analysis.read.predictions import Prediction
from analysis.report.videos import webm
from dreamer.errors import counted
from dreamer.run_folder import write_text

HERE = Path(__file__).resolve().parent
PICTURE_DPI = 130
MAX_VIDEOS = 24  # per suite; each weighs about 40 KB
OPEN_SUITES = 2  # suites that are unfolded when the page opens
# Markers of matplotlib -> symbols of Plotly.
SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "D": "diamond",
    "P": "cross", "X": "x", "<": "triangle-left", ">": "triangle-right", "h": "hexagon",
    "*": "star", "d": "diamond-tall", "p": "pentagon", "8": "octagon",
}  # fmt: skip
RUN_HEAD = ("run", "state", "env_steps", "score", "attempts", "code", "host", "started", "command")


class Section(NamedTuple):
    """What the page shows of a suite."""

    summary: Summary
    drawn: Sequence[Drawn]
    predictions: Sequence[Prediction]


class Picture(NamedTuple):
    name: str
    url: str
    width: int
    height: int


def write(path: Path, sections: Sequence[Section]) -> None:
    """The page with a section for each suite."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    data = {one.summary.name: curve_data(one.summary) for one in sections}
    # A `<` in the data could end the script element.
    packed = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    page = environment.get_template("report.html.j2").render(
        sections=[_content(one) for one in sections],
        synthetic=any(one.summary.synthetic for one in sections),
        caveat=verdict.CAVEAT,
        counted=counted,
        run_head=RUN_HEAD,
        verdict_head=tables.VERDICT_HEAD,
        error_words=ERROR_WORDS,
        open_suites=OPEN_SUITES,
        plotly=Markup(_plotly()),
        data=Markup(packed),
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "report.js").read_text(encoding="utf-8")),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def _plotly() -> str:
    """plotly.js, compressed: a third of its size, and read only when curves are seen."""
    script = files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, mtime=0)).decode()


def _content(section: Section) -> dict[str, Any]:
    """What the template shows of a suite."""
    summary = section.summary
    judged = summary.verdict.tasks
    return {
        "summary": summary,
        "scores": tables.score_cells(summary),
        "verdict": tables.verdict_rows(judged),
        "statement": verdict.overall(judged)["statement"] if judged else "",
        "reason": summary.verdict.reason,
        "pictures": [
            _picture(one) for one in section.drawn if not one.name.startswith("prediction-")
        ],
        "videos": [_video(summary, one) for one in section.predictions[:MAX_VIDEOS]],
        "more_videos": max(0, len(section.predictions) - MAX_VIDEOS),
        "counts": summary.runs["state"].value_counts().to_dict(),
        "runs": run_rows(summary),
    }


def _picture(one: Drawn) -> Picture:
    """A figure as an embedded PNG, small and sharp enough for a screen."""
    picture = small_picture(one.figure, PICTURE_DPI, 200)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return Picture(one.name, _data_url("image/png", buffer.getvalue()), *picture.size)


def _video(summary: Summary, one: Prediction) -> dict[str, str]:
    """An open-loop prediction as a video: truth, model and error side by side."""
    url = _data_url("video/webm", webm(one.truth, one.model, one.context))
    return {"title": prediction_title(summary, one), "url": url}


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# --- interactive curves ----------------------------------------------------------------------


def curve_data(summary: Summary) -> dict[str, Any]:
    """What report.js draws for each task: mean and band of each method, runs, constant levels."""
    sweep = summary.x is not None and summary.is_sweep
    styles = dict(summary.styles)
    constant = []
    for row in levels(summary).itertuples():
        styles[f"published {row.method}"] = PUBLISHED_STYLES[row.method]
        level = float(row.score_mean)
        constant.append({"task": row.task, "method": f"published {row.method}", "level": level})
    lines = _lines(summary.scores, "x") if sweep else _lines(summary.curves, "env_steps")
    if summary.reference is not None and len(summary.reference) and not sweep:
        styles["released"] = PUBLISHED_STYLES["dreamer"]
        released = summary.reference.assign(method="released")
        lines += _lines(released.assign(n_expected=released["n"]), "env_steps")
    return {
        "x": summary.x.setting if summary.x and sweep else "env_steps",
        "xLabel": summary.x.label if summary.x and sweep else "Environment steps",
        "yLabel": metric_label(summary.metric),
        "steps": not sweep,
        "band": statistics.BANDS[summary.band][0],
        "sameScale": common_range(summary.scale, summary.tasks) is not None,
        "tasks": {task: pretty(task) for task in summary.tasks},
        "methods": {method: _look(style) for method, style in styles.items()},
        "lines": lines,
        "seeds": [] if sweep else _seed_lines(summary),
        "levels": constant,
    }


def _look(style: Style) -> dict[str, str]:
    dash = (
        "solid" if style.line == "-" else ",".join(f"{2 * length:g}px" for length in style.line[1])
    )
    return {
        "label": style.label,
        "colour": style.colour,
        "dash": dash,
        "symbol": SYMBOLS.get(style.marker, "circle"),
    }


def _lines(table: pd.DataFrame, x: str) -> list[dict[str, Any]]:
    return [
        {
            "task": task,
            "method": method,
            "x": [float(value) if value % 1 else int(value) for value in rows[x]],
            "mean": _numbers(rows["mean"]),
            "low": _numbers(rows["low"]),
            "high": _numbers(rows["high"]),
            "n": [int(n) for n in rows["n"]],
            "planned": int(rows["n_expected"].iloc[0]),
        }
        for (task, method), rows in table.sort_values(x, kind="stable").groupby(
            ["task", "method"], sort=False
        )
    ]


def _seed_lines(summary: Summary) -> list[dict[str, Any]]:
    """Each run's binned curve."""
    runs = summary.runs.set_index("run_id")
    return [
        {
            "run": run_id,
            "task": runs.at[run_id, "task"],
            "method": runs.at[run_id, "method"],
            "x": [int(value) for value in rows["env_steps"]],
            "y": _numbers(rows["value"]),
        }
        for run_id, rows in summary.binned.groupby("run_id", sort=True)
    ]


def _numbers(values: pd.Series) -> list[float | None]:
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in values]


# --- runs ------------------------------------------------------------------------------------


def run_rows(summary: Summary) -> list[dict[str, Any]]:
    """Every planned run: its state, and where its numbers come from. `cells` are for RUN_HEAD."""
    scores = dict(zip(summary.finals["run_id"], summary.finals["score"], strict=True))
    rows = []
    for run in summary.runs.itertuples():
        origin = run.provenance if isinstance(run.provenance, dict) else {}
        commits = run.commits if isinstance(run.commits, dict) else {}
        score = scores.get(run.run_id, math.nan)
        command = origin.get("command", "")
        short = run.state == Completeness.SHORT
        cells = (
            run.run_id,
            f"{run.state} ({run.status.lower()})" if short else run.state,
            f"{run.last_env_steps:,}",
            f"{score:.0f}" if math.isfinite(score) else "–",
            ", ".join(commits) or "–",
            ", ".join(dict.fromkeys(commit for commit in commits.values() if commit)) or "–",
            origin.get("host", "–"),
            origin.get("started", "–"),
            " ".join(command) if isinstance(command, list) else str(command),
        )
        rows.append({"state": run.state, "cells": cells})
    return rows
