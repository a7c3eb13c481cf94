"""Measure the examples that the Studio opens on: ``python -m assets.measure_examples``.

Each is attacked with its released ensemble; the results go into ``examples.json`` beside this file. The pictures are
CIFAR-10 test pictures that the foolbox package ships: only their places and what the attacks add to them are kept.
"""

import json

from app.services import examples
from app.services.models import Registry
from app.studio import Studio


def main() -> None:
    """Write every example's record."""
    studio = Studio(Registry((), "cpu"))
    records = [examples.measure(studio, example) for example in examples.EXAMPLES]
    lines = ",\n".join(json.dumps(record, separators=(",", ":")) for record in records)
    examples.FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    for example in examples.EXAMPLES:
        examples._records.cache_clear()
        found = examples.shown(studio, example)
        assert found is not None
        after = found.made.result["adversarial"]
        print(example.id, found.made.result["subset"], after["label"], f"{after['entropy']:.2f}", after["flagged"])
    print(f"{examples.FILE.name}: {examples.FILE.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
