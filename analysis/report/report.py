"""One self-contained HTML page: figures, tables, verdict, videos, runs, interactive curves.

The page works offline: pictures are data URLs, script and style are embedded. report.html.j2 holds
its text and escapes everything that it shows; this module prepares the numbers.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from analysis.count import statistics, verdict
from analysis.count.methods import PUBLISHED_STYLES
from analysis.count.summary import Completeness, Summary
from analysis.draw import tables
from analysis.draw.images import error_image
from analysis.draw.page import RC, pretty
from analysis.draw.suite import Drawn, metric_label, prediction_title
from analysis.read.predictions import Prediction
from dreamer.run_folder import write_text

HERE = Path(__file__).resolve().parent
PICTURE_DPI = 130
VIDEO_MS_PER_FRAME = 80
MAX_VIDEOS = 24  # per suite; each weighs about 100 KB
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
        run_head=RUN_HEAD,
        data=Markup(packed),
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "report.js").read_text(encoding="utf-8")),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)


def _content(section: Section) -> dict[str, Any]:
    """What the template shows of a suite."""
    summary = section.summary
    judged = summary.verdict.tasks
    return {
        "summary": summary,
        "scores": tables.score_cells(summary),
        "verdict": tables.verdict_text(judged),
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
    """A figure as an embedded PNG of few colours, small and sharp enough for a screen."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(RC):
        one.figure.savefig(buffer, format="png", dpi=PICTURE_DPI)
    picture = Image.open(buffer).convert("RGB").quantize(200, dither=Image.Dither.NONE)
    small = io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    return Picture(one.name, _data_url("image/png", small.getvalue()), *picture.size)


def _video(summary: Summary, one: Prediction) -> dict[str, str]:
    """An open-loop prediction as an animated picture: truth, model and error side by side."""
    url = _data_url("image/gif", gif(one.truth, one.model, one.context))
    return {"title": prediction_title(summary, one), "url": url}


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# --- interactive curves ----------------------------------------------------------------------


def curve_data(summary: Summary) -> dict[str, Any]:
    """What report.js draws for each task: mean and band of each method, runs, published scores."""
    if summary.x and summary.is_sweep:
        return _data(summary, summary.scores, "x", summary.x.label)
    data = _data(summary, summary.curves, "env_steps", "Environment steps")
    data["seeds"] = _seed_lines(summary)
    return data


def _seed_lines(summary: Summary) -> list[dict[str, Any]]:
    """Each run's binned curve."""
    runs = summary.runs.set_index("run_id")
    lines = []
    for run_id, rows in summary.binned.groupby("run_id", sort=True):
        if run_id in runs.index:
            run = runs.loc[run_id]
            lines.append(
                {
                    "run": run_id,
                    "task": run["task"],
                    "method": run["method"],
                    "seed": int(run["seed"]),
                    "x": [int(value) for value in rows["env_steps"]],
                    "y": _numbers(rows["value"]),
                }
            )
    return lines


def _data(summary: Summary, table: pd.DataFrame, x: str, x_label: str) -> dict[str, Any]:
    lines = []
    for (task, method), rows in table.groupby(["task", "method"], sort=False):
        lines.append(
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
        )
    return {
        "xLabel": x_label,
        "yLabel": metric_label(summary.metric),
        "band": statistics.BANDS[summary.band][0],
        "tasks": {task: pretty(task) for task in summary.tasks},
        "methods": {
            method: {"label": style.label, "colour": style.colour}
            for method, style in summary.styles.items()
        },
        "lines": lines,
        "seeds": [],
        "published": [
            {
                "task": row.task,
                "score": float(row.score_mean),
                "label": PUBLISHED_STYLES[row.method].label,
                "colour": PUBLISHED_STYLES[row.method].colour,
            }
            for row in summary.published.itertuples()
        ],
    }


def _numbers(values: pd.Series) -> list[float | None]:
    return [round(float(v), 2) if math.isfinite(v) else None for v in values]


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


# --- videos ----------------------------------------------------------------------------------


def gif(truth: np.ndarray, model: np.ndarray, context: int) -> bytes:
    """truth, model uint8 [T, 64, 64, 3] -> an animated GIF of T frames."""
    wide = np.concatenate([truth, model, error_image(truth, model)], axis=2)
    frames = []
    for number, image in enumerate(wide):
        top = np.full((2, image.shape[1], 3), (213, 94, 0) if number < context else 255, np.uint8)
        frames.append(Image.fromarray(np.concatenate([top, image])).quantize(64))
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=VIDEO_MS_PER_FRAME, loop=0
    )
    return buffer.getvalue()
