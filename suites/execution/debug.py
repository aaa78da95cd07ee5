"""The executor for debuggers: runs in this process, one after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

from dreamer.run_folder import Status
from suites.execution.attempt import execute
from suites.execution.display import make_display
from suites.execution.executor import Capacity, Executor, Request
from suites.execution.local import Local
from suites.execution.spec import Spec
from suites.record.folder import BusyError


class Debug(Executor):
    """Executes the runs in this process. If one is interrupted, the others are not started."""

    name = "debug"

    def at_a_time(self, request: Request) -> Capacity:
        return Local().at_a_time(request)._replace(runs=1)

    def execute(self, specs: Sequence[Spec], request: Request) -> None:
        display = make_display(len(specs))
        try:
            for given in specs:  # without a graph, so that a debugger can step through an update
                spec = dataclasses.replace(given, config=given.config | {"cuda_graph": "off"})
                display.started(spec)
                try:
                    status = execute(spec, on_status=partial(display.running, spec))
                except BusyError as error:
                    display.ended(spec, {}, str(error))
                    continue
                display.ended(spec, status, "")
                if status["status"] == Status.INTERRUPTED:
                    return
        finally:
            display.close()
