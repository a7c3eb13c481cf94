"""Attacks against torchattacks, foolbox and the Auto-Attack package: same ensemble, images and budget.

`python -m benchmarks.attacks`. Ratios: `attacks.pgd_vs_torchattacks`, `attacks.pgd_vs_foolbox` (PGD with 20 steps,
an image counts as lost as soon as a step fools it, float32 verdicts on both sides) and
`attacks.autoattack_vs_package` (the standard version). Ours is also timed as one would first write it (plain float32:
the ensemble as it is, all steps) and the library way (what the project does beside native code, PyTorch alone):
`attacks.pgd_native_vs_library`, `attacks.autoattack_native_vs_library`. torch.compile has no row: it compiles anew for
each number of images still left, in longer than the attack takes. Ours is timed as `python -m cce evaluate` runs it,
verdicts included; of the peers, the attack and one float32 verdict on its result. What their steps did is looked
at in a second run that is not timed. Images on which two verdicts of Auto-Attack, or of B&B, differ are counted and
named. `--bb-n 16` adds `attacks.bb_vs_foolbox`: foolbox's B&B from the same PGD, image by image, since its steps are as
long as its batch is large. `--strength-n 500` compares what PGD finds by precision of the search: PyTorch's float32,
native float32, and bfloat16; the verdicts are float32. Each part can be left out: `--n 0 --autoattack-n 100` is
Auto-Attack alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import foolbox
import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor

from benchmarks.reporting import Timing, arguments, report, side_by_side
from cce import kernels
from cce.attacks import auto_attack
from cce.attacks.gradient import attack
from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint
from cce.config import AttackConfig, default_attack
from cce.config.attack_registry import NORMS
from cce.data import datasets as data
from cce.evaluation.evaluate import measure
from cce.evaluation.fooling import WatchedEnsemble
from cce.evaluation.outcomes import outcome
from cce.fast import SearchCopy
from cce.models import Ensemble, evaluating, fast_dtype

ENSEMBLE = "cifar10-resnet20-cce-rm"
Peer = Callable[[Ensemble, Tensor, Tensor], Tensor]  # model, x, labels -> examples


def main(arguments_given: list[str] | None = None) -> int:
    """Measure, print, and write what `--json` asks for."""
    p = arguments(__doc__ or "")
    p.formatter_class = argparse.RawDescriptionHelpFormatter
    p.add_argument("--checkpoint", default=ENSEMBLE, help=f"a released ensemble on CIFAR-10 (default: {ENSEMBLE})")
    p.add_argument("--n", type=int, default=200, help="images for PGD; 0: leave it out (default: 200)")
    p.add_argument("--autoattack-n", type=int, default=12, help="images for Auto-Attack; 0: leave it out (default: 12)")
    p.add_argument("--strength-n", type=int, default=0, help="images to compare precisions on (default: 0, left out)")
    p.add_argument("--bb-n", type=int, default=0, help="images for B&B, which needs numba (default: 0, left out)")
    p.add_argument(
        "--norm", choices=NORMS, default="linf", help="ball of Auto-Attack and B&B; PGD's is linf (default: linf)"
    )
    p.add_argument("--rounds", type=int, default=1, help="measured rounds of PGD after an unmeasured one (default: 1)")
    p.add_argument("--made", action="store_true", help="bundled pictures even where the data set is there")
    options = p.parse_args(arguments_given)
    wanted = (options.n, options.autoattack_n, options.strength_n, options.bb_n)
    if min(wanted) < 0 or not max(wanted):
        p.error("--n, --autoattack-n, --strength-n and --bb-n must be 0 or more, and not all 0")
    if options.threads:
        torch.set_num_threads(options.threads)
    folders = {f.name: f for f in checkpoints.released()}
    if options.checkpoint not in folders:
        p.error(f"there is no {options.checkpoint!r}; released are {', '.join(folders)}")
    checkpoint = checkpoints.load(folders[options.checkpoint])
    x, labels, source = pictures(checkpoint.dataset, max(wanted), options.made)
    ratios, rows = {}, []
    if options.n:
        ratios, rows = pgd(checkpoint, x[: options.n], labels[: options.n], options)
    more_parts = (
        (options.autoattack_n, auto_attacks),
        (options.bb_n, boundary_attacks),
        (options.strength_n, precisions),
    )
    for n, compared in more_parts:
        if n:
            more, again = compared(checkpoint, x[:n], labels[:n], options)
            ratios, rows = ratios | more, rows + again
    print(f"{checkpoint.id}; images: {source}; seconds on the {options.clock} clock")
    report(ratios, [{**row, "pictures": source} for row in rows], options.json)
    return 0


def pictures(dataset: str, n: int, made: bool) -> tuple[Tensor, Tensor, str]:
    """`n` images with labels, and where they are from: the test set where it is there, else the bundled ones, moved."""
    if dataset != "digits" and not made:
        try:
            split = data.load_test(dataset).first(n)
            return split.pixels(), split.labels, f"first {len(split)} of the test set"
        except data.DataError:
            pass
    split = data.samples(dataset)
    x, labels = split.pixels(), split.labels
    copies = -(-n // len(x))
    moved = [torch.roll(x if k % 2 == 0 else x.flip(-1), (k // 2, -(k // 2)), (-2, -1)) for k in range(copies)]
    found = torch.cat(moved)[:n]
    return found, labels.repeat(copies)[:n], f"{len(x)} bundled, mirrored and moved to {n}"


def pgd(
    checkpoint: Checkpoint, x: Tensor, labels: Tensor, options: argparse.Namespace
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """PGD, ours and the peers', in turn."""
    config, model = default_attack(checkpoint.dataset), checkpoint.model
    settings = {"seed": options.seed, "search_dtype": fast_dtype(x.device)}
    peers: dict[str, Peer] = {"torchattacks": _torchattacks(config), "foolbox": _foolbox(config)}
    found: dict[str, Any] = {}

    def ours(success: str) -> None:
        found[success] = measure(checkpoint, x, labels, [config], success=success, **settings).found[0]

    def plainly() -> None:
        found["plain float32"] = outcome(model, plain_attack(model, x, labels, config, options.seed), labels)

    def theirs(name: str) -> None:
        torch.manual_seed(options.seed)
        with evaluating(model):
            found[name] = outcome(model, peers[name](model, x, labels).detach(), labels)

    works = {"cce": lambda: ours("any"), "cce, to the end": lambda: ours("last")}
    works["cce, library way"] = kernels.turned_off()(lambda: ours("any"))
    works["plain float32"] = kernels.turned_off()(plainly)
    works |= {name: lambda name=name: theirs(name) for name in peers}
    timings = side_by_side(works, rounds=options.rounds, seconds=120)
    rows = []
    for name, key in (("cce", "any"), ("cce, to the end", "last"), ("cce, library way", "any")):
        any_step = (~found[key].fooled).float().mean().item()
        last = found[key].outcome.accuracy if key == "last" else None
        rows.append(_row(name, config, len(x), timings[name], options, any_step, last))
    plain = found["plain float32"].accuracy
    rows.append(_row("plain float32", config, len(x), timings["plain float32"], options, None, plain))
    for name, peer in peers.items():
        any_step = 1 - fooled_by_peer(peer, model, x, labels, config, options.seed).float().mean().item()
        rows.append(_row(name, config, len(x), timings[name], options, any_step, found[name].accuracy))
    fast = timings["cce"].seconds(options.clock)
    slower = {name: f"vs_{name}" for name in peers} | {"cce, library way": "native_vs_library"}
    slower["plain float32"] = "vs_plain"
    return {f"attacks.pgd_{key}": timings[name].seconds(options.clock) / fast for name, key in slower.items()}, rows


def plain_attack(model: Ensemble, x: Tensor, labels: Tensor, config: AttackConfig, seed: int) -> Tensor:
    """PGD as one would first write it, on the ensemble as it is; examples `(B, C, H, W)`."""
    generator, radius = torch.Generator(x.device).manual_seed(seed), config.epsilon
    noise = torch.rand(x.shape, generator=generator, device=x.device)
    examples = (x + radius * (2 * noise - 1)).clamp(0, 1)
    with evaluating(model):
        for _ in range(config.steps):
            examples.requires_grad_(True)
            (gradient,) = torch.autograd.grad(F.nll_loss(model(examples), labels, reduction="sum"), examples)
            stepped = examples.detach() + config.step_size * gradient.sign()
            examples = torch.minimum(torch.maximum(stepped, x - radius), x + radius).clamp(0, 1)
    return examples


def fooled_by_peer(peer: Peer, model: Ensemble, x: Tensor, labels: Tensor, config: AttackConfig, seed: int) -> Tensor:
    """Whom a peer fools at any step, `(B,)`: the model it is given notes what it is asked about."""
    wrong = ~outcome(model, x, labels).right
    watched = WatchedEnsemble(model, model, x, labels, config, fooled=wrong)
    torch.manual_seed(seed)
    with evaluating(model), evaluating(watched):
        examples = peer(watched, x, labels).detach()
    return watched.fooled | ~outcome(model, examples, labels).right


def _torchattacks(config: AttackConfig) -> Peer:
    shape = {"eps": config.epsilon, "alpha": config.step_size, "steps": config.steps}
    return lambda model, x, labels: torchattacks.PGD(model, random_start=True, **shape)(x, labels)


def _foolbox(config: AttackConfig) -> Peer:
    def run(model: Ensemble, x: Tensor, labels: Tensor) -> Tensor:
        peer = foolbox.attacks.LinfPGD(abs_stepsize=config.step_size, steps=config.steps, random_start=True)
        return peer(foolbox.PyTorchModel(model, bounds=(0, 1)), x, labels, epsilons=config.epsilon)[1]

    return run


def auto_attacks(
    checkpoint: Checkpoint, x: Tensor, labels: Tensor, options: argparse.Namespace
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The standard version of Auto-Attack, ours and the authors' package; once each, since it takes long."""
    model, config = checkpoint.model, default_attack(checkpoint.dataset, "autoattack", options.norm)

    def ours() -> Tensor:
        search = SearchCopy(model, fast_dtype(x.device)).model
        return attack(search, x, labels, config, judge=model, seed=options.seed)

    def authors() -> Tensor:
        with evaluating(model):
            peer = auto_attack.package(model, config, options.seed)
            return peer.run_standard_evaluation(x, labels, batch_size=len(x))[0]

    works = {"cce": ours, "pyautoattack": authors, "cce, library way": kernels.turned_off()(ours)}
    ratios, rows = _once(works, config, model, x, labels, options, "autoattack", "package")
    seconds = {row["library"]: row["seconds"] for row in rows}
    ratios[f"attacks.autoattack{_norm(options)}_native_vs_library"] = seconds["cce, library way"] / seconds["cce"]
    return ratios, rows


def precisions(
    checkpoint: Checkpoint, x: Tensor, labels: Tensor, options: argparse.Namespace
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """What PGD finds on the same images from the same random starts, by what its gradients are computed in."""
    config, rows, found = default_attack(checkpoint.dataset), [], {}
    searches = {
        "float32 of PyTorch": (torch.float32, kernels.turned_off()),
        "float32, native": (torch.float32, nullcontext()),
        "bfloat16 of PyTorch": (torch.bfloat16, kernels.turned_off()),
        "bfloat16, native": (torch.bfloat16, nullcontext()),
    }
    for name, (dtype, switch) in searches.items():
        if name.endswith("native") and not kernels.available():
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        with switch:
            measured = measure(checkpoint, x, labels, [config], success="any", seed=options.seed, search_dtype=dtype)
        spent = time.perf_counter() - wall
        found[name] = fooled = measured.found[0].fooled
        differ = int((fooled != found["float32 of PyTorch"]).sum())
        timing = Timing(spent, spent, time.process_time() - cpu, 1)
        robust = (~fooled).float().mean().item()
        row = _row(f"search in {name}", config, len(x), timing, options, robust, None)
        rows.append({**row, "verdicts that differ": differ})
    return {}, rows


def boundary_attacks(
    checkpoint: Checkpoint, x: Tensor, labels: Tensor, options: argparse.Namespace
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """B&B, ours and foolbox's image by image and all together; once each, since it takes long."""
    model, config = checkpoint.model, default_attack(checkpoint.dataset, "bb", options.norm)
    search = SearchCopy(model, fast_dtype(x.device)).model
    attacks = foolbox.attacks
    kind = attacks.LinfinityBrendelBethgeAttack if options.norm == "linf" else attacks.L2BrendelBethgeAttack

    def ours(steps: int = config.steps) -> Tensor:
        settings = replace(config, steps=steps)
        return attack(search, x, labels, settings, judge=model, seed=options.seed)

    def start() -> Tensor:
        """PGD from ever larger balls: foolbox's own start is not always misclassified, and then it gives up."""
        begun, epsilon = x.clone(), config.epsilon
        while (left := outcome(model, begun, labels).right).any() and epsilon < 64 * config.epsilon:
            nearby = replace(config, name="pgd", epsilon=min(1.0, epsilon), step_size=epsilon / 4, steps=20)
            begun[left] = attack(model, x[left], labels[left], nearby, seed=options.seed)
            epsilon *= 2
        return begun

    def theirs(width: int) -> Tensor:
        begun = start()
        rows = (~outcome(model, begun, labels).right).nonzero().flatten().split(width)
        with evaluating(model):
            peer = foolbox.PyTorchModel(model, bounds=(0, 1))
            for part in rows:
                one = kind(steps=config.steps)
                given = {"starting_points": begun[part], "epsilons": config.epsilon}
                begun[part] = one(peer, x[part], labels[part], **given)[1]
        return begun

    ours(1)  # numba compiles the steps of all three
    works = {"cce": ours, "foolbox": lambda: theirs(1), "foolbox, all together": lambda: theirs(len(x))}
    return _once(works, config, model, x, labels, options, "bb", "foolbox")


def _once(
    works: dict[str, Callable[[], Tensor]],
    config: AttackConfig,
    model: Ensemble,
    x: Tensor,
    labels: Tensor,
    options: argparse.Namespace,
    name: str,
    peer: str,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Ours (`cce`), then a peer's, then others: each timed once, and the images named where verdicts differ."""
    timings, right = {}, {}
    for library, work in works.items():
        wall, cpu = time.perf_counter(), time.process_time()
        right[library] = outcome(model, work().detach(), labels).right
        spent = time.perf_counter() - wall
        timings[library] = Timing(spent, spent, time.process_time() - cpu, 1)
    first = list(works)[1]
    rows = []
    for library, timing in timings.items():
        differ = (right["cce"] != right[first if library == "cce" else library]).nonzero().flatten().tolist()
        if library != "cce":
            mine, other = ([i for i in differ if not right[who][i]] or "none" for who in ("cce", library))
            print(
                f"{config.info.title}'s verdicts differ on {len(differ)} of {len(x)} images: "
                f"only cce fools {mine}, only {library} {other}"
            )
        accuracy = right[library].float().mean().item()
        row = _row(library, config, len(x), timing, options, accuracy, accuracy)
        rows.append({**row, "verdicts that differ": len(differ)})
    ratio = timings[first].seconds(options.clock) / timings["cce"].seconds(options.clock)
    return {f"attacks.{name}{_norm(options)}_vs_{peer}": ratio}, rows


def _norm(options: argparse.Namespace) -> str:
    return "" if options.norm == "linf" else "_l2"


def _row(
    name: str,
    config: AttackConfig,
    n: int,
    timing: Timing,
    options: argparse.Namespace,
    any_step: float | None,
    last: float | None,
) -> dict[str, Any]:
    """A line of the table; accuracies in percent."""
    return {
        "library": name,
        "attack": config.describe().removesuffix(", on the ensemble"),
        "images": n,
        "seconds": timing.seconds(options.clock),
        "robust % at any step": None if any_step is None else 100 * any_step,
        "robust % at the last": None if last is None else 100 * last,
    }


if __name__ == "__main__":
    raise SystemExit(main())
