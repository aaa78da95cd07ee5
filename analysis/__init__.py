"""Records to tables and figures. The functions below are for notebooks; none needs PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.notebook import (
        plot_aggregates,
        plot_bars,
        plot_curves,
        plot_sweep,
        suite_figures,
        suite_frame,
        suite_summary,
    )

__all__ = [
    "plot_aggregates",
    "plot_bars",
    "plot_curves",
    "plot_sweep",
    "suite_figures",
    "suite_frame",
    "suite_summary",
]


def __getattr__(name: str) -> Any:
    """Imported when it is used: processes that only read records need no matplotlib."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from analysis import notebook

    return getattr(notebook, name)
