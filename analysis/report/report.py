"""One self-contained HTML page: figures, tables, verdict, videos, runs, interactive curves.

The page needs no network: its pictures are data URLs, its script and style are report.js and
report.css beside this file. Numbers for the interactive curves travel as JSON inside the page.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from analysis.count import statistics as aggregate
from analysis.count import verdict as reproduction
from analysis.count.methods import PUBLISHED_STYLES
from analysis.count.published import baselines
from analysis.count.summary import Summary
from analysis.draw import lines as figures
from analysis.draw import tables
from analysis.files import write_text
from analysis.read.frame import Source
from dreamer.config import UserError

HERE = Path(__file__).resolve().parent
PICTURE_DPI = 130
VIDEO_MS_PER_FRAME = 80
MAX_VIDEOS = 24  # per suite; each weighs about 100 KB


def write(
    path: Path,
    made: Sequence[tuple],
    source: Source,
    reference: pd.DataFrame | None,
    at: int | None,
) -> None:
    """The page for suites made by make_figures: (suite, summary, drawn, predictions) each."""
    sections = [_suite_section(*one, _verdict(*one[:2], source, reference, at)) for one in made]
    data = {summary.name: curve_data(summary) for _, summary, _, _ in made}
    links = "".join(f'<a href="#{s.name}">{html.escape(s.name)}</a>' for _, s, _, _ in made)
    synthetic = any(summary.synthetic for _, summary, _, _ in made)
    note = '<p class="synthetic">SYNTHETIC DATA: no agent was trained.</p>' if synthetic else ""
    # `<` could end the script element early, wherever it stands in the data.
    packed = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Dreamer: results</title><style>{(HERE / "report.css").read_text()}</style></head>
<body><header><h1>Dreamer: results</h1><nav>{links}</nav>{note}</header>
<main>{"".join(sections)}</main>
<script type="application/json" id="data">{packed}</script>
<script>{(HERE / "report.js").read_text()}</script></body></html>
"""
    write_text(path, page)


def _suite_section(
    suite: Any, summary: Summary, drawn: Sequence[Any], predictions: Sequence[Any], verdict: str
) -> str:
    shown = [one for one in drawn if not one.name.startswith("prediction-")]
    pictures = "".join(_picture(one) for one in shown)
    problems = "".join(f"<li>{html.escape(line)}</li>" for line in summary.problems)
    listed = f"<details open><summary>{len(summary.problems)} remarks</summary><ul class=problems>"
    listed = listed + problems + "</ul></details>" if summary.problems else ""
    return f"""<section id="{html.escape(summary.name)}"><h2>{html.escape(summary.name)}</h2>
<p>{html.escape(summary.about)}</p>{listed}
<h3>Curves</h3><div class="curves" data-suite="{html.escape(summary.name)}"></div>
<h3>Final scores</h3>{score_table(summary)}
{verdict}
<h3>Figures</h3>{pictures}
{_videos(summary, predictions)}
<h3>Runs</h3>{run_table(summary)}</section>"""


def _picture(one: Any) -> str:
    """A figure as an embedded PNG of few colours: small, and sharp enough for a screen."""
    buffer = io.BytesIO()
    with figures.matplotlib.rc_context(figures.RC):
        one.figure.savefig(buffer, format="png", dpi=PICTURE_DPI)
    picture = Image.open(buffer).convert("RGB").quantize(200, dither=Image.Dither.NONE)
    small = io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    return (
        f'<figure><img loading="lazy" width="{picture.width}" height="{picture.height}" '
        f'alt="{html.escape(one.name)}" src="{_data_url("image/png", small.getvalue())}">'
        f"<figcaption>{html.escape(one.name)}</figcaption></figure>"
    )


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


# --- interactive curves ----------------------------------------------------------------------


def curve_data(summary: Summary) -> dict[str, Any]:
    """What report.js draws: per task the methods' mean and band, each run, published lines."""
    if summary.runs["x"].nunique() > 1:
        return _data(summary, summary.scores, "x", "Imagination horizon")
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
                "x": [int(value) for value in rows[x]],
                "mean": _numbers(rows["mean"]),
                "low": _numbers(rows["low"]),
                "high": _numbers(rows["high"]),
                "n": [int(n) for n in rows["n"]],
                "planned": int(rows["n_expected"].iloc[0]),
            }
        )
    published = baselines(summary.published)
    published = published[published["task"].isin(summary.tasks)]
    return {
        "xLabel": x_label,
        "yLabel": {"evaluate_return": "Score"}.get(summary.metric, summary.metric),
        "band": aggregate.BANDS[summary.band][0],
        "tasks": {task: figures.pretty(task) for task in summary.tasks},
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
            for row in published.itertuples()
        ],
    }


def _numbers(values: pd.Series) -> list[float | None]:
    return [round(float(v), 2) if math.isfinite(v) else None for v in values]


# --- tables ----------------------------------------------------------------------------------


def score_table(summary: Summary) -> str:
    table = tables.score_cells(summary)
    head = "".join(f"<th>{html.escape(word)}</th>" for word in table.head)
    rows = []
    for number, row in enumerate(table.rows):
        cells = "".join(
            f"<td{' class=best' if cell.best else ''}>{html.escape(cell.text)}</td>" for cell in row
        )
        rows.append(f"<tr{' class=rule' if number in table.rules else ''}>{cells}</tr>")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        f"</table></div><ul class=notes>{notes}</ul>"
    )


def _verdict(
    suite: Any, summary: Summary, source: Source, reference: pd.DataFrame | None, at: int | None
) -> str:
    """The verdict on the suite's Dreamer runs; nothing where there are none to judge."""
    try:
        found, _ = reproduction.suite_verdicts(
            suite.path, source, reference, metric=summary.metric, at=at
        )
    except UserError as error:
        return f"<h3>Verdict</h3><p>{html.escape(str(error))}.</p>"
    text = html.escape(reproduction.table(found))
    statement = html.escape(reproduction.overall(found)["statement"])
    return (
        f"<h3>Verdict</h3><p><b>{statement}</b> {html.escape(reproduction.CAVEAT)}</p>"
        f"<details><summary>Per task</summary><pre>{text}</pre></details>"
    )


def run_table(summary: Summary) -> str:
    """Every planned run: state, settings, and where its numbers come from."""
    head = ("run", "state", "env_steps", "score", "attempts", "code", "host", "started", "command")
    finals = summary.finals.set_index("run_id")["score"] if len(summary.finals) else pd.Series()
    rows = []
    for run in summary.runs.itertuples():
        story = run.provenance if isinstance(run.provenance, dict) else {}
        commits = run.commits if isinstance(run.commits, dict) else {}
        score = finals.get(run.run_id, math.nan)
        command = story.get("command", "")
        words = (
            run.run_id,
            run.state if run.state != "short" else f"short ({run.status.lower()})",
            f"{run.last_env_steps:,}",
            f"{score:.0f}" if math.isfinite(score) else "–",
            ", ".join(commits) or "–",
            ", ".join(dict.fromkeys(commit for commit in commits.values() if commit)) or "–",
            story.get("host", "–"),
            story.get("started", "–"),
            " ".join(command) if isinstance(command, list) else str(command),
        )
        cells = "".join(f"<td>{html.escape(str(word))}</td>" for word in words)
        rows.append(f'<tr class="{run.state}">{cells}</tr>')
    heads = "".join(f"<th>{word}</th>" for word in head)
    counts = ", ".join(f"{n} {state}" for state, n in summary.runs["state"].value_counts().items())
    return (
        f'<details><summary>{len(summary.runs)} runs: {counts}</summary><div class="scroll">'
        f'<table class="runs"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        "</div></details>"
    )


# --- videos ----------------------------------------------------------------------------------


def _videos(summary: Summary, predictions: Sequence[Any]) -> str:
    """Open-loop predictions as animated pictures: truth, model and error side by side."""
    if not predictions:
        return ""
    parts = []
    for one in predictions[:MAX_VIDEOS]:
        title = f"{figures.pretty(one.task)}, {summary.styles[one.method].label}, seed {one.seed}"
        url = _data_url("image/gif", gif(one.truth, one.model, one.context))
        parts.append(
            f'<figure class="video"><img loading="lazy" alt="{html.escape(title)}" src="{url}">'
            f"<figcaption>{html.escape(title)}</figcaption></figure>"
        )
    left = len(predictions) - len(parts)
    more = f"<p>{left} more are among the saved figures.</p>" if left > 0 else ""
    return (
        "<h3>Predictions</h3><p>Truth, model, error. Orange line: the model sees the images; "
        f'afterwards it predicts from actions alone.</p><div class="videos">{"".join(parts)}</div>'
        f"{more}"
    )


def gif(truth: np.ndarray, model: np.ndarray, context: int) -> bytes:
    """truth, model uint8 [T, 64, 64, 3] -> an animated GIF of T frames."""
    wide = np.concatenate([truth, model, figures.error_image(truth, model)], axis=2)
    frames = []
    for number, image in enumerate(wide):
        top = np.full((2, image.shape[1], 3), (213, 94, 0) if number < context else 255, np.uint8)
        frames.append(Image.fromarray(np.concatenate([top, image])).quantize(64))
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "GIF", save_all=True, append_images=frames[1:], duration=VIDEO_MS_PER_FRAME, loop=0
    )
    return buffer.getvalue()
