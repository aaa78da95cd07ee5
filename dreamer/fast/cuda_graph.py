"""A function of tensors as one CUDA graph: thousands of kernels started by a single call.

An update at paper size is some 8000 kernels, and starting them one by one takes several times as
long as running them. `Graphed` records them once and replays them. What that asks of the function:

    its arguments have the same shapes at every call, and are all that changes from outside
    what it changes (weights, Adam's averages) it changes in place
    nothing in it waits for the GPU; noise comes in as an argument

So a replay computes what a plain call would. What reads or writes the same weights between calls
(acting, evaluation, checkpoints, copies to a slow network) is not part of the graph and needs no
care. Whoever puts other tensors in the place of weights or averages makes a new `Graphed`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3  # plain calls before the recording: libraries choose and prepare their kernels

Tree = Any  # a tensor, None, or a tuple of trees; the same shape of tree at every call
Function = Callable[..., dict[str, Tensor]]  # gives named scalars


class Graphed:
    """`function`, replayed from call WARM_UP + 1 on; plain for ever, with a line that says so, if
    it cannot be recorded."""

    def __init__(self, function: Function, record: Callable[..., Callable[[], None]] | None = None):
        self.function = function
        self.record = record or record_graph
        self.calls = 0
        self.side: torch.cuda.Stream | None = None  # where the first calls run
        self.replay: Callable[[], None] | None = None
        self.arguments: tuple[Tree, ...] = ()  # that the graph reads
        self.names: list[str] = []  # of its results
        self.values: Tensor | None = None  # [names] its results, overwritten by every replay

    def __call__(self, *arguments: Tree) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls <= WARM_UP:
            with self._aside():
                return self.function(*arguments)
        if self.calls == WARM_UP + 1:
            self._prepare(arguments)
        if self.replay is None:
            return self.function(*arguments)
        copy_into(self.arguments, arguments)
        self.replay()
        assert self.values is not None
        return dict(zip(self.names, self.values.clone().unbind(), strict=True))

    def _prepare(self, arguments: tuple[Tree, ...]) -> None:
        self.arguments = copied(arguments)
        try:
            self.replay = self.record(self._run)
        except RuntimeError as error:  # also what CUDA and its allocator raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"warning: updates without a CUDA graph, slower ({reason})", file=sys.stderr)
            self.arguments = ()

    def _run(self) -> None:
        results = self.function(*self.arguments)
        self.names = list(results)
        self.values = torch.stack([value.float() for value in results.values()])

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """On a stream of its own, which capturing demands of the calls before it."""
        if not torch.cuda.is_available():
            yield
            return
        self.side = self.side or torch.cuda.Stream()
        self.side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.side):
            yield
        torch.cuda.current_stream().wait_stream(self.side)


def record_graph(run: Callable[[], None]) -> Callable[[], None]:
    """Records `run` without executing it; raises RuntimeError if something in it forbids that."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # what the plain calls held: the graph has memory of its own
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def copied(tree: Tree) -> Tree:
    """New tensors of the same values."""
    if tree is None or isinstance(tree, Tensor):
        return None if tree is None else tree.clone()
    parts = [copied(part) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


def copy_into(static: Tree, tree: Tree) -> None:
    """Writes the values of `tree` into the tensors of `static`; raises ValueError for others."""
    if isinstance(static, Tensor):
        if static.shape != tree.shape or static.dtype != tree.dtype:
            raise ValueError(f"was {static.dtype} {static.shape}, is {tree.dtype} {tree.shape}")
        static.copy_(tree, non_blocking=True)
    elif static is not None:
        for part, other in zip(static, tree, strict=True):
            copy_into(part, other)


def parity(one: Any, other: Any, batches: Iterable[Any]) -> float:
    """Updates two agents of equal weights alike; returns how far apart any parameter is then:
    the largest of |a - b| / |b| over parameters, as norms."""
    for number, batch in enumerate(batches):
        one.update(batch, number)
        other.update(batch, number)
    pairs = [
        (a.detach(), b.detach())
        for group in one.parameters
        for a, b in zip(one.parameters[group], other.parameters[group], strict=True)
    ]
    return max(((a - b).norm() / b.norm().clamp(min=1e-12)).item() for a, b in pairs)
