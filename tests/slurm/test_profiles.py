"""Profiles: what is read, what stays as written, and what is refused at which place."""

from __future__ import annotations

import pytest
from helpers import profile_of

from dreamer.errors import UserError
from slurm.profiles import PROFILES, load_profile
from suites.language import nodes


@pytest.mark.parametrize(
    ("written", "minutes"),
    [("90", 90), ("1:30:00", 90), ("0:00:30", 1), ("1-00:00:00", 1440), ("2-03:04:05", 3065)],
)
def test_times_are_minutes_or_clock_times(tmp_path, written, minutes):
    assert profile_of(tmp_path, f"time: {written}").options["time"] == minutes


def test_text_stays_as_it_is_written(tmp_path):
    profile = profile_of(
        tmp_path,
        "account: 0123\nqos: no\npartition: '007'\nmem: 24GB\n"
        "environment: {WANDB_MODE: off, OMP_PROC_BIND: no, EMPTY: , THREADS: 010, RATE: 1e3}\n"
        "sbatch: [--reservation=0x10, --exclusive]",
    )
    assert profile.options == {"account": "0123", "qos": "no", "partition": "007", "mem": "24GB"}
    assert profile.environment == {
        "WANDB_MODE": "off",
        "OMP_PROC_BIND": "no",
        "EMPTY": "",
        "THREADS": "010",
        "RATE": "1e3",
    }
    assert profile.sbatch == {"reservation": "0x10", "exclusive": True}
    assert profile.requeue and profile.gpus == 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("partitoin: gpu", "no option 'partitoin'.*valid are account, "),
        ("job_name: mine", "no option 'job_name'"),
        ("time: 1:30", r"profiles\.yaml:2: lab\.time: 1:30 is no time limit; give minutes"),
        ("time: 1:90:00", "is no time limit"),
        ("time: 0:00:00", "0 minutes is less than 1"),
        ("time: 90.5", "is no time limit"),
        ("time: [90]", "a list is no time limit"),
        ("cpus_per_task: 4\ncpus_per_task: 2", r"yaml:3: lab: duplicate key 'cpus_per_task'"),
        ("max_submit_jobs: 0", "lab.max_submit_jobs: 0 is less than 1"),
        ("environment: {A B: 1}", "'A B' cannot be the name"),
        ("environment: [A]", "lab.environment: a mapping"),
        ("sbatch: ['-p gpu']", r"lab\.sbatch\[0\]: -p gpu: --option or --option=value"),
        ("setup: module load cuda", "lab.setup: a list of lines"),
        ("requeue: maybe", "lab.requeue: true or false"),
        ("account:", "lab.account: a value is expected"),
        ("mem: {a: 1}", "lab.mem: text is expected, not a mapping"),
    ],
)
def test_mistakes_are_one_line_with_file_line_and_key(tmp_path, options, complaint):
    with pytest.raises(UserError, match=complaint) as caught:
        profile_of(tmp_path, options)
    assert "\n" not in str(caught.value)


def test_the_committed_profiles_are_valid_and_unknown_ones_named(monkeypatch):
    monkeypatch.delenv("DREAMER_SLURM_PROFILES", raising=False)
    names = nodes.load(PROFILES).mapping()
    assert {load_profile(name).name for name in names} == set(names)
    assert load_profile(None).name == "default"
    with pytest.raises(UserError, match=r"no profile 'defualt'.*default"):
        load_profile("defualt")
