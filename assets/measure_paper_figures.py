"""What the Paper tab draws as Figures 1 and 5 to 8: `python -m assets.measure_paper_figures`.

Measures predictions and loss surfaces of the released ensembles on the first bundled test picture that each labels
right, and writes the numbers (no picture) to `assets/paper_figures.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cce.checkpoints import folder as checkpoints
from cce.checkpoints.folder import Checkpoint, machine_name, version_of_cce
from cce.evaluation.one_picture import attack_picture
from cce.evaluation.surfaces import surface
from cce.machine.files import write_atomically
from cce.paper import printed as paper
from cce.paper.bench import Bench, device_of
from cce.paper.printed import Cell

FILE = Path(__file__).parent / "paper_figures.json"
FIGURES = ("figure1", "figure5", "figure6", "figure7", "figure8")


def main() -> None:
    """Measure all of them and write the file."""
    made = [checkpoints.load(folder) for folder in checkpoints.released()]
    bench = Bench(made, None, n=0, steps=0, adaptive=1, seed=0)
    found = {}
    for item in paper.choose(FIGURES):
        found[item.id] = [measured(cell, bench) for cell in item.cells]
        print(item.id, ", ".join(one["model"] for one in found[item.id]))
    write_atomically(FILE, json.dumps(found, separators=(",", ":"), allow_nan=False) + "\n")


def measured(cell: Cell, bench: Bench) -> dict[str, Any]:
    """One panel: where it is from, and its numbers."""
    c = paper.find(cell.wanted, bench.checkpoints)
    assert c is not None and cell.attack is not None
    x, label, which = bench.example(c)
    x_adv, said = attack_picture(c, x, label, cell.attack, bench.seed)
    record = {
        "model": c.id,
        "defense": c.defense_name,
        "picture": which,
        "image": f"test:{which.split()[2]}",
        "attack": cell.attack.describe(),
        "epsilon": cell.attack.epsilon,
        "step_size": cell.attack.step_size,
        "steps": cell.attack.steps,
        "device": machine_name(device_of(c)),
        "cce": version_of_cce(),
    }
    if cell.measure == "predictions":
        return record | {key: said[key] for key in ("label", "benign", "adversarial", "subset")}
    return record | surface_of(c, x_adv, label, 2 * cell.attack.epsilon, bench.seed)


def surface_of(c: Checkpoint, x: Any, label: int, extent: float, seed: int) -> dict[str, Any]:
    """The grid of one ensemble, without its axes."""
    values = surface(c.model, x, label, extent=extent, seed=seed).to_json()
    kept = {key: values[key] for key in ("offsets", "views", "label", "clipped")}
    for view in kept["views"].values():
        view["loss"] = [[round(value, 3) for value in row] for row in view["loss"]]
    return {"classes": list(c.classes), "surface": kept}


if __name__ == "__main__":
    main()
