"""Figures and tables into files. A file is whole or not there."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from analysis.count.summary import Summary
from analysis.draw import tables
from analysis.draw.page import RC
from analysis.draw.suite import Drawn
from dreamer.run_folder import replacing, write_text


def save_figure(drawn: Drawn, folder: Path) -> None:
    """PNG (300 dpi), PDF and CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    for ending in ("png", "pdf") if drawn.pdf else ("png",):
        # Without dates, the same records give the same bytes.
        metadata = {"CreationDate": None} if ending == "pdf" else {"Software": None}
        path = folder / f"{drawn.name}.{ending}"
        with replacing(path) as partial, matplotlib.rc_context(RC):
            drawn.figure.savefig(partial, metadata=metadata, dpi=300)
    write_text(folder / f"{drawn.name}.csv", drawn.data.to_csv(index=False))


def small_picture(figure: Figure, dpi: int, colours: int) -> Image.Image:
    """A figure in few colours, which makes a small file."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(RC):
        figure.savefig(buffer, format="png", dpi=dpi)
    return Image.open(buffer).convert("RGB").quantize(colours, dither=Image.Dither.NONE)


def save_tables(summary: Summary, folder: Path) -> None:
    """The score table in three formats, the runs, and the numbers across tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    table = tables.score_cells(summary)
    for ending, form in tables.FORMATS.items():
        write_text(folder / f"scores.{ending}", form(table))
    write_text(folder / "scores.csv", tables.csv_table(summary).to_csv(index=False))
    runs = summary.runs.drop(columns=["config", "provenance"])
    finals = summary.finals[["run_id", "score", "evaluations", "at", "partial"]]
    runs = runs.merge(finals, on="run_id", how="left")
    runs = runs.merge(summary.progress, on="run_id", how="left")
    write_text(folder / "runs.csv", runs.to_csv(index=False))
    for name, rows in (("profiles", summary.profiles), ("improvements", summary.improvements)):
        if len(rows):
            write_text(folder / f"{name}.csv", rows.to_csv(index=False))
    write_text(folder / "problems.txt", "".join(f"{line}\n" for line in summary.problems))
