"""The benchmark measures every part and says what it measured. (No test times anything.)"""

import json

import pytest
import torch

from dreamer.benchmark import WHAT, main
from dreamer.config import make_config

SIZE = ["--preset", "tiny", "--batch", "2", "--length", "3", "--horizon", "3", "--task", "toy_dot"]
QUICK = ["--seconds", "0", "--repeats", "2"]
FIELDS = {"what", "device", "precision", "batch", "length", "horizon", "median_s", "min_s", "max_s",
          "repeats", "peak_memory_bytes", "flops"}  # fmt: skip


def test_all_parts_as_json(capsys):
    assert main([*SIZE, *QUICK, "--what", "all", "--format", "json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [r["what"] for r in results] == list(WHAT)
    for r in results:
        assert r.keys() >= FIELDS
        assert (r["device"], r["precision"], r["batch"], r["length"], r["horizon"]) == (
            *("cpu", "fp32"),
            *(2, 3, 3),
        )
        assert 0 < r["min_s"] <= r["median_s"] <= r["max_s"]
        assert r["repeats"] == 2 and r["peak_memory_bytes"] > 1e6
        assert (r["flops"] > 0) == (r["what"] not in ("replay", "env"))
    parts = {r["what"]: r["flops"] for r in results}
    assert parts["update"] > parts["observe"] + parts["imagine"]


@pytest.mark.parametrize("representation", ["reconstruction", "contrastive", "reward"])
def test_the_table_shows_where_an_updates_time_goes(representation, capsys):
    options = ["--representation", representation, "--precision", "bf16"]
    assert main([*SIZE, *QUICK, *options]) == 0
    table = capsys.readouterr().out
    for stage in ("encoder", "observe", "imagine", "clip and Adam", "rest"):
        assert f"\n    {stage} " in table
    assert ("\n    probe decoder " in table) == (representation != "reconstruction")
    assert (f"\n    {representation} " in table) == (representation != "reward")


def test_flops_of_a_plan_are_those_counted_by_hand(capsys):
    assert main([*SIZE, *QUICK, "--action-size", "4", "--what", "plan", "--format", "json"]) == 0
    [result] = json.loads(capsys.readouterr().out)
    c = make_config("tiny")
    s, d, hidden, units = c.stoch_size, c.deter_size, c.hidden_size, c.dense_units
    model = (s + 4) * hidden + 3 * d * (hidden + d) + d * hidden + hidden * 2 * s
    reward = (s + d) * units + units * units + units
    decisions = c.planner_candidates * c.planner_horizon * c.planner_iterations
    shared = s * hidden + 3 * d * d  # of the first state, the same for all candidates
    saved = shared * (c.planner_candidates - 1) * c.planner_iterations
    assert result["flops"] == 2 * ((model + reward) * decisions - saved)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("options", [["--gpu-suite"], ["--device", "cuda"], ["--length", "1"]])
def test_mistakes_are_one_line(options, capsys):
    assert main(options) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
