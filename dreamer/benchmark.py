"""How fast this machine runs each part of a run, and how far that is from its own limit.

    python -m dreamer.benchmark               an update at the preset's size, with its stages
    python -m dreamer.benchmark --what all --format json
    python -m dreamer.benchmark --gpu-suite   everything that a GPU is asked, in 8 minutes

Each part runs alone, after a warm-up, several times: median, minimum and maximum. FLOPs are counted
by torch, and compared with the rate of a large matrix product measured in the same run. Measure on
an idle machine: with another busy process on the cores the numbers mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dreamer import command_line
from dreamer.agent import Agent
from dreamer.config import IMAGE_SHAPE, PRESETS, Config, make_config
from dreamer.envs.environment import Step, make_environment
from dreamer.envs.simulators import ActionSpace
from dreamer.episodes import random_action
from dreamer.errors import UserError
from dreamer.fast.cuda_graph import WARM_UP, parity
from dreamer.fast.products import FLOPS, matmul
from dreamer.machine import mixed_precision, prepare_machine
from dreamer.networks import to_float
from dreamer.planner import Planet
from dreamer.replay import Batch, Episode, Replay, on_device
from dreamer.world_model import Seen

SUITE_LIMIT_S = 420.0  # of --gpu-suite: what has not begun by then is left out
PARITY_UPDATES = 100
PICTURES = 101  # of the task, of which `replay` makes its episodes

Run = Callable[[], Any]


class Bench:
    """One configuration's agent with a batch of noise to work on, on its device."""

    def __init__(self, config: Config, action_size: int, resources: contextlib.ExitStack):
        self.config, self.resources = config, resources
        self.device = prepare_machine(config)
        self.agent = Agent(config, ActionSpace(action_size, discrete=False), self.device)
        self.batch = self.random_batch()
        self.noise = self.agent.draw_noise(0)

    def random_batch(self) -> Batch:
        b, n, size = self.config.batch_size, self.config.length, self.agent.space.size
        image = torch.randint(0, 256, (b, n, *IMAGE_SHAPE), dtype=torch.uint8)
        parts = (image, torch.rand(b, n, size) * 2 - 1, torch.rand(b, n), torch.zeros(b, n))
        return Batch(*(part.to(self.device) for part in parts))

    # What can be measured: each gives the function to run.

    def update(self) -> Run:
        return lambda: self.agent.update(self.batch, 0)

    def observe(self) -> Run:
        return self.stages()["observe"]

    def imagine(self) -> Run:
        return self.stages()["imagine"]

    def act(self) -> Run:
        image = np.zeros((1, *IMAGE_SHAPE), np.uint8)
        memory, generator = self.agent.initial_memory(1), torch.Generator(self.device)
        return lambda: self.agent.policy(image, memory, generator, self.config.exploration_noise)

    def plan(self, fuse: bool = True) -> Run:
        config = dataclasses.replace(self.config, behaviour="planet")
        planner = Planet(config, self.agent.space)
        model, generator = self.agent.model, torch.Generator(self.device)
        state = model.rssm.initial(1)
        return torch.no_grad()(lambda: planner.act(model, state, False, generator, fuse))

    def replay(self) -> Run:
        """Batches from episodes of the task's own pictures: others unpack at another speed."""
        folder = Path(self.resources.enter_context(tempfile.TemporaryDirectory()))
        size, steps = self.agent.space.size, self.config.time_limit_env_steps
        steps = steps // self.config.action_repeat + 1
        image = np.resize(self.pictures(min(steps, PICTURES)), (steps, *IMAGE_SHAPE))
        rows = np.zeros((steps, size), np.float32)
        replay = Replay(folder, size, self.config.length)
        self.resources.callback(replay.close)
        for _ in range(10):
            replay.append(Episode(image, rows, rows[:, 0], rows[:, 0]))
        source = on_device(replay, replay.cursor().agent_steps * replay.step_bytes, self.device)
        generator = np.random.default_rng(0)

        def sample() -> None:
            for part in source.sample(generator, self.config.batch_size):
                part.to(self.device, non_blocking=True)

        return sample

    def env(self) -> Run:
        env = make_environment(self.config)
        self.resources.callback(env.close)
        generator, space = np.random.default_rng(0), env.action_space
        now: Step | None = None

        def step() -> Step:
            nonlocal now
            if now is None or now.terminal or now.truncated:
                env.reset(0)
            now = env.step(random_action(generator, space.size, space.discrete))
            return now

        return step

    def pictures(self, count: int) -> np.ndarray:
        """The first pictures of the task under random actions, uint8 [count, 64, 64, 3]."""
        step = self.env()
        return np.stack([step().image for _ in range(count)])

    # Where an update's time goes: its parts by themselves, each forward and backward.

    def stages(self) -> dict[str, Run]:
        agent, batch, noise = self.agent, self.batch, self.noise
        model, action = agent.model, batch.action
        with torch.no_grad(), self.precision():
            image = to_float(batch.image)
            embed, observed = model.observe(image, action, noise.posterior)
        embed, feature = embed.requires_grad_(), observed.states.feature.requires_grad_()
        starts = agent.starts(observed.states)

        def stage(part: nn.Module, inputs: list[Tensor], forward: Callable[[], Any]) -> Run:
            def run() -> None:
                with self.precision():
                    outputs = forward()
                backward(outputs, [*inputs, *part.parameters()])

            return run

        def observe() -> list[Tensor]:
            states, _, prior = model.rssm.observe(embed, action, noise.posterior)
            return [*states, *prior]

        def represent() -> Iterable[Tensor]:
            return model.representation(Seen(image, embed, action, observed, feature)).values()

        def imagine() -> None:
            with self.precision():
                losses, _ = agent.behaviour.losses(model, starts, noise.imagination)
            for name, loss in losses.items():
                backward([loss], agent.parameters[name], keep=name == "actor")

        def optimise() -> None:
            for name, optimiser in agent.optimisers.items():
                for parameter in agent.parameters[name]:
                    parameter.grad = torch.zeros_like(parameter)
                nn.utils.clip_grad_norm_(agent.parameters[name], 100.0)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)

        encoder, probe, representation = model.encoder, model.probe, agent.config.representation
        parts = {
            "encoder": stage(encoder, [], lambda: [encoder(to_float(batch.image))]),
            "observe": stage(model.rssm, [embed], observe),
        }
        if representation != "reward":
            parts[representation] = stage(model.representation, [embed, feature], represent)
        if probe is not None:
            parts["probe decoder"] = stage(probe, [], lambda: [probe(feature.detach())])
        return {**parts, "imagine": imagine, "clip and Adam": optimise}

    def precision(self) -> torch.autocast:
        return mixed_precision(self.config, self.device)


WHAT: dict[str, Callable[[Bench], Run]] = {
    name: getattr(Bench, name)
    for name in ("update", "observe", "imagine", "act", "plan", "replay", "env")
}


def backward(outputs: Iterable[Tensor], inputs: Iterable[Tensor], keep: bool = False) -> None:
    """Gradients of the outputs' sum; thrown away."""
    total = torch.stack([output.sum() for output in outputs]).sum()
    torch.autograd.grad(total, list(inputs), retain_graph=keep, allow_unused=True)


def measure(
    run: Run, device: torch.device, seconds: float, repeats: int, counted: Run | None = None
) -> dict[str, Any]:
    """Times of `run`, at least `repeats` and about `seconds` long together, after a warm-up of
    WARM_UP + 2 calls, or 2 of more than a second; its FLOPs, or those of `counted`, and the memory
    at its peak."""
    counter = FlopCounterMode(display=False, custom_mapping=FLOPS)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter:
        first = timed(counted or run, device)
    for _ in range(1 if first > 1 else WARM_UP + 1):
        timed(run, device)
    forget_peak(device)
    times: list[float] = []
    while len(times) < repeats or (sum(times) < seconds and len(times) < 1000):
        times.append(timed(run, device))
    return {
        "median_s": statistics.median(times),
        "min_s": min(times),
        "max_s": max(times),
        "repeats": len(times),
        "peak_memory_bytes": peak_bytes(device),
        "flops": counter.get_total_flops(),
    }


class _NoModules(contextlib.nullcontext):
    """Instead of the counter's split by modules, whose hooks `autograd.grad` cannot pass."""

    parents = frozenset({"Global"})


def timed(run: Run, device: torch.device) -> float:
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:  # of the whole process; on Linux it begins anew, elsewhere it is the highest so far
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def ceiling(device: torch.device, precision: str) -> float:
    """FLOP/s of a large matrix product, by the fastest library there is: the best of several."""
    size = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = [timed(lambda: matmul(a, b), device) for _ in range(10)]
    return 2 * size**3 / min(times)


def benchmark(
    config: Config, action_size: int, what: Iterable[str], seconds: float, repeats: int
) -> list[dict[str, Any]]:
    """One object per part; `update` brings its stages."""
    results = []
    with contextlib.ExitStack() as resources:
        bench = Bench(config, action_size, resources)
        limit = ceiling(bench.device, config.precision)
        base = {
            "device": bench.device.type,
            "precision": config.precision,
            "graph": bench.device.type == "cuda" and config.cuda_graph == "auto",
            "batch": config.batch_size,
            "length": config.length,
            "horizon": config.horizon,
            "action_size": action_size,
            "threads": torch.get_num_threads(),
            "ceiling_flop_per_s": limit,
        }
        for name in what:
            # torch's FLOP counter cannot see inside fused kernels.
            counted = bench.plan(fuse=False) if name == "plan" else None
            found = measure(WHAT[name](bench), bench.device, seconds, repeats, counted)
            found["share"] = found["flops"] / found["median_s"] / limit
            if name == "update":
                found["stages_s"] = {
                    stage: measure(run, bench.device, seconds / 3, 3)["median_s"]
                    for stage, run in bench.stages().items()
                }
            results.append({"what": name, **base, **found})
    return results


def as_table(results: list[dict[str, Any]]) -> str:
    """Times in milliseconds, memory in GiB, FLOPs in 1e9; after each update its stages."""
    lines = ["what     device precision graph    median      min      max  n   GiB   GFLOP  share"]
    for r in results:
        lines.append(
            f"{r['what']:8} {r['device']:6} {r['precision']:9} {'yes' if r['graph'] else 'no':5}"
            f"{1e3 * r['median_s']:10.2f} {1e3 * r['min_s']:8.2f} {1e3 * r['max_s']:8.2f}"
            f" {min(r['repeats'], 99):2} {r['peak_memory_bytes'] / 2**30:5.2f}"
            f" {r['flops'] / 1e9:7.2f} {r['share']:5.0%}"
        )
        stages = r.get("stages_s", {})
        rest = r["median_s"] - sum(stages.values())
        for name, spent in {**stages, "rest": rest}.items() if stages else ():
            lines.append(f"    {name:26}{1e3 * spent:10.2f} {spent / r['median_s']:8.0%}")
    if results:
        r = results[0]
        ceilings = {x["precision"]: x["ceiling_flop_per_s"] / 1e9 for x in results}
        lines.append(
            f"times in ms; B={r['batch']} L={r['length']} H={r['horizon']}; {r['threads']} threads;"
            " share of a matrix product's "
            + ", ".join(f"{speed:.0f} GFLOP/s ({kind})" for kind, speed in ceilings.items())
        )
    return "\n".join(lines)


def gpu_suite(config: Config, action_size: int) -> list[dict[str, Any]]:
    """Every part at every precision, updates with and without graph, and how far 100 updates of
    both lie apart. The results so far are what the table shows when the time is over."""
    begun, results = time.perf_counter(), []
    updates_and_parts = [("auto", "update"), *(("off", name) for name in WHAT if name != "env")]
    for precision, (graph, name) in product(("fp32", "tf32", "bf16"), updates_and_parts):
        if time.perf_counter() - begun > SUITE_LIMIT_S:
            print(f"left out: {name} {precision} graph {graph}", file=sys.stderr)
            continue
        case = dataclasses.replace(config, precision=precision, cuda_graph=graph)
        results += benchmark(case, action_size, [name], seconds=4.0, repeats=5)
        torch.cuda.empty_cache()
    if time.perf_counter() - begun < SUITE_LIMIT_S:
        graphed, eager = (
            Bench(dataclasses.replace(config, cuda_graph=how), action_size, contextlib.ExitStack())
            for how in ("auto", "off")
        )
        far = parity(graphed.agent, eager.agent, [graphed.batch] * PARITY_UPDATES)
        print(f"graph against eager, {PARITY_UPDATES} updates in fp32: at most {far:.1e} apart")
    return results


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    about = "How fast each part of a run is here."
    parser = command_line.Parser("python -m dreamer.benchmark", description=about)
    add = parser.add_argument
    add("--preset", choices=sorted(PRESETS), default="published")
    add("--batch", dest="batch_size", type=int, help="(default: the preset's)")
    for name in ("length", "horizon"):
        add(f"--{name}", type=int, help="(default: the preset's)")
    add("--action-size", type=int, default=6)
    add("--task", default="cartpole_balance", help="for --what env and replay")
    add("--representation", default="reconstruction", help="of the update")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    add("--what", choices=(*WHAT, "all"), default="update")
    add("--seconds", type=float, default=5.0, help="of measuring each part (default: 5)")
    add("--repeats", type=int, default=5, help="of each part at least (default: 5)")
    add("--format", choices=("text", "json"), default="text")
    add("--gpu-suite", action="store_true", help="all parts and precisions on a GPU")
    return parser.parse_args(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    return command_line.main(parse, run, argv)


def run(arguments: argparse.Namespace) -> int:
    if arguments.action_size < 1:
        raise UserError("--action-size: at least 1")
    names = ("batch_size", "length", "horizon", "task", "representation", "precision", "device")
    chosen = {name: getattr(arguments, name) for name in names}
    if arguments.gpu_suite:
        chosen["device"] = "cuda"
    config = make_config(arguments.preset, {k: v for k, v in chosen.items() if v is not None})
    if arguments.gpu_suite:
        results = gpu_suite(config, arguments.action_size)
    else:
        what = list(WHAT) if arguments.what == "all" else [arguments.what]
        results = benchmark(
            config, arguments.action_size, what, arguments.seconds, arguments.repeats
        )
    print(json.dumps(results, indent=1) if arguments.format == "json" else as_table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
