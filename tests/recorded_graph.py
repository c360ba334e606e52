"""A CUDA graph's stand-in on a CPU: records tensor operations and repeats them, without Python.

As on the device, a capture changes nothing, every tensor keeps its address, only registered
generators may be drawn from, and what would have to wait for the device is refused.
"""

from __future__ import annotations

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "unique", "is_nonzero")


class Generator(torch.Generator):
    """A CPU generator with what only those of a GPU have."""

    def graphsafe_set_state(self, state):
        self.set_state(state.get_state())


class DefaultGenerator:
    """Of the CPU, likewise."""

    @staticmethod
    def clone_state():
        return torch.default_generator.clone_state()

    @staticmethod
    def graphsafe_set_state(state):
        torch.default_generator.set_state(state.get_state())

    get_state = staticmethod(torch.get_rng_state)
    set_state = staticmethod(torch.set_rng_state)


class Stream:
    def wait_stream(self, other):
        assert isinstance(other, Stream)


class Graph:
    """In the place of `torch.cuda.CUDAGraph`; ``replays`` counts over all graphs."""

    replays = 0

    def __init__(self):
        self.operations, self.generators = [], [torch.default_generator]

    def register_generator_state(self, generator):
        self.generators.append(generator)

    def reset(self):
        self.operations.clear()

    def replay(self):
        Graph.replays += 1
        with torch.no_grad():
            for operation, arguments, named, results in self.operations:
                new = operation(*arguments, **named)
                returned = operation._schema.returns
                if any(value.alias_info for value in returned):  # a view, or done in place
                    continue
                for old, value in zip(_tensors(results), _tensors(new), strict=True):
                    old.copy_(value)


class Capture(TorchDispatchMode):
    """In the place of `torch.cuda.graph`."""

    def __init__(self, graph, stream):
        super().__init__()
        self.graph = graph
        self.before, self.made = {}, set()

    def __enter__(self):
        self.random = [generator.get_state() for generator in self.graph.generators]
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        for storage, content in self.before.values():
            storage.copy_(content)
        if exception[0] is not None:  # on the device, too, generators then need mending
            return
        for generator, state in zip(self.graph.generators, self.random, strict=True):
            generator.set_state(state)

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        named = named or {}
        self._check(operation, arguments, named)
        for tensor in _tensors((arguments, named)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.made | self.before.keys():
                self.before[storage.data_ptr()] = storage, storage.clone()
        results = operation(*arguments, **named)
        for tensor in _tensors(results):
            if tensor.untyped_storage().data_ptr() not in self.before:
                self.made.add(tensor.untyped_storage().data_ptr())
        self.graph.operations.append((operation, arguments, named, results))
        return results

    def _check(self, operation, arguments, named):
        name = operation._schema.name.split("::")[1]
        masked = name.startswith(("index", "_index")) and any(
            isinstance(value, torch.Tensor) and value.dtype in (torch.bool, torch.uint8)
            for value in tree_leaves(arguments[1:2])
        )
        if masked or name.startswith(REFUSED):
            raise RuntimeError(f"operation not permitted when stream is capturing\n{name}")
        generator = named.get("generator")
        if generator is not None and not any(  # a wrapper of its own around the same generator
            torch.equal(generator.get_state(), known.get_state()) for known in self.graph.generators
        ):
            raise RuntimeError("offset increment outside graph capture encountered unexpectedly")


def _tensors(values):
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def install(monkeypatch):
    """Let `cuda_graph.StepGraph` find CUDA."""
    Graph.replays = 0
    monkeypatch.setattr("chestlab.training.cuda_graph._failed", [])
    for name, value in {
        "CUDAGraph": Graph,
        "graph": Capture,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "default_generators": (DefaultGenerator,),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr("chestlab.training.trainer.supported", lambda device: True)
