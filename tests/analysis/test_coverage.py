"""The simulations that check the intervals: they run, and their table supports the README."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis import coverage
from analysis.count.averages import HONEST, interval_warning
from analysis.count.published import MEASURED
from analysis.count.published import coverage as simulated


def test_the_command_writes_the_table(tmp_path, capsys):
    path = tmp_path / "coverage.csv"
    assert coverage.main(["--out", str(path), "--experiments", "2"]) == 0
    committed = pd.read_csv(MEASURED / "coverage.csv")
    keys = ["what", "tasks", "seeds", "data", "aimed_at"]
    assert pd.read_csv(path)[keys].equals(committed[keys])
    assert coverage.main(["--out", str(tmp_path / "no" / "c.csv")]) == 2
    assert coverage.main(["--out", str(path), "--experiments", "0"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_true_values_have_closed_forms():
    found = coverage.true_values(4, "normal")
    assert found["mean"] == pytest.approx(0.6, abs=0.005)  # levels 0.1 to 0.9, and 0.1 better
    assert found["difference"] == pytest.approx(0.1, abs=0.005)
    assert coverage.true_values(4, "fails")["mean"] == pytest.approx(0.45, abs=0.005)


def test_t_intervals_are_honest_where_seeds_do_not_fail():
    table = pd.read_csv(MEASURED / "coverage.csv")
    table = table[table["data"] == "normal"].set_index("what")
    for what in ("mean", "difference", "optimality_gap"):
        assert table.loc[what, "simulated"].min() > 0.92
    assert table.loc["improvement", "simulated"].min() > 0.9


def test_the_verdict_errs_as_seldom_as_it_says():
    table = pd.read_csv(MEASURED / "coverage.csv").set_index("what")
    assert table.loc["reproduced, 100 worse", "simulated"].max() < 0.065
    assert table.loc["reproduced, 150 worse", "simulated"].max() < 0.02
    assert table.loc["reproduced, 0 worse", "simulated"].iloc[-1] > 0.7  # of 10 seeds


def test_few_tasks_and_seeds_are_looked_up_as_the_next_fewer_that_were_simulated():
    table = pd.read_csv(MEASURED / "coverage.csv")
    rows = table[(table["what"] == "median") & (table["tasks"] == 8) & (table["seeds"] == 3)]
    assert simulated("median", 9, 4) == rows["simulated"].min()
    assert simulated("median", 1000, 1000) <= 1
    assert pd.isna(simulated("median", 8, 1))


def test_a_warning_names_the_intervals_that_are_too_narrow():
    rows = pd.DataFrame(
        {"statistic": ["mean", "median", "iqm"], "low": [0.1, 0.1, None],
         "coverage": [HONEST, 0.62, 0.3]}
    )  # fmt: skip
    text = interval_warning(rows)
    assert "median 0.62" in text and "mean 0.9" not in text and "IQM" not in text
    assert interval_warning(rows.iloc[:1]) == ""
