"""Records to tables and figures. The functions below are for notebooks; none needs PyTorch."""

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
