"""The copy of an ensemble that examples are searched on."""

from __future__ import annotations

import copy
import sys

import torch

from cce.fast.layers import compute_whole, is_whole, network_of, use_kernels
from cce.kernels import available
from cce.kernels.network import Network
from cce.machine.cuda_graphs import Graphs
from cce.models import IN_CACHE, Ensemble, fold

_EXACT = ", gradients in float32"


def search_precision(source: Ensemble, dtype: torch.dtype, native: bool = True) -> str:
    """In words, what a `SearchCopy` of `source` in `dtype` computes in: a ResNet's native gradients are float32."""
    exact = native and dtype != torch.float32 and _computed_whole(source)
    return str(dtype).removeprefix("torch.") + (_EXACT if exact else "")


def _computed_whole(source: Ensemble) -> bool:
    """Whether native code computes members of a copy of `source` whole."""
    on_cpu = {p.device.type for p in source.parameters()} == {"cpu"}
    return on_cpu and any(is_whole(member) for member in source.members) and available()


class SearchCopy:
    """A copy of an ensemble that only searches for examples: batch norm folded, any dtype, channels-last.

    Its parameters take no gradient. `refresh` copies the source's present weights into it, so that it
    follows a model in training (with the running statistics, as in evaluation). `model` is an
    `Ensemble` of the same interface: float32 in, float32 out. Native code computes a ResNet's gradients for a bfloat16
    copy too, in float32, on a Xeon with AMX in 0.7 of the time; looks without a gradient are faster in bfloat16.
    `apart` tells that no batch norm joins the images of a batch. `search_rows` and `step_rows` say how many images are
    best taken at a time, in the search and in the step on the source: all (a large number) where the code is compiled
    for one size or takes a few at a time itself, and in the step where batch norm needs the batch whole. `graphs`
    records what a training step computes on a GPU. `precision` says in words what it computes in.

    Without `native` it is PyTorch's alone. Several threads may search on it; `refresh` is for one thread, while no
    other searches.
    """

    def __init__(
        self, source: Ensemble, dtype: torch.dtype = torch.bfloat16, compile: bool = False, native: bool = True
    ) -> None:
        self.source = source
        self.model = copy.deepcopy(source)
        self._folded = fold(source, self.model)
        self.model.to(dtype=dtype, memory_format=torch.channels_last).eval().requires_grad_(False)
        kinds = {p.device.type for p in source.parameters()}
        if kinds == {"cpu"} and native:
            use_kernels(self.model)
        residual = [member for member in self.model.members if is_whole(member)]
        whole = native and _computed_whole(source)
        self.precision = search_precision(source, dtype, native and not compile)
        self._exact = SearchCopy(source, torch.float32) if self.precision.endswith(_EXACT) else None
        self.networks: list[Network] = []
        if whole:
            self.networks = self._exact.networks if self._exact else [network_of(member) for member in residual]
            for member, network in zip(residual, self.networks, strict=True):
                compute_whole(member, network)
        folded = {id(p) for pair, conv in self._folded if pair for p in conv.parameters()}
        self._plain = {n: p for n, p in self.model.named_parameters() if id(p) not in folded}
        if compile:
            for i, member in enumerate(self.model.members):
                self.model.members[i] = torch.compile(member, dynamic=False)
        one_size = compile or bool(kinds - {"cpu"})
        self.graphs = Graphs() if kinds == {"cuda"} else None
        self.search_rows = sys.maxsize if one_size or whole else IN_CACHE
        self.apart = not any(pair for pair, _ in self._folded)
        self.step_rows = self.search_rows if self.apart else sys.maxsize
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> Ensemble:
        """Take the source's present weights; returns `model`."""
        for pair, conv in self._folded:
            if pair:
                weight, bias = pair.folded()
                conv.weight.copy_(weight)
                conv.bias.copy_(bias)
        own = dict(self.source.named_parameters())
        for name, parameter in self._plain.items():
            parameter.copy_(own[name])
        for _, conv in self._folded:
            conv.repack()
        if self._exact:
            self._exact.refresh()
        else:
            for network in self.networks:
                network.repack()
        return self.model
