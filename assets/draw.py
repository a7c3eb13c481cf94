"""Draw the example pictures that are not photographs, always the same: ``python assets/draw.py``.

They are drawn in ``vehicles.py`` and ``animals.py``, on the canvas of ``canvas.py``. ``horse.jpg`` stands a CC0
silhouette, read from ``horse_silhouette.png`` beside this file, in a drawn meadow. See SOURCES.md.
"""

from pathlib import Path

from animals import bird, deer, dog, frog, horse
from vehicles import airplane, automobile, ship, truck

HERE = Path(__file__).resolve().parent

PICTURES = (airplane, automobile, bird, deer, dog, frog, horse, ship, truck)


def main() -> None:
    """Draw every picture into the folder of this file."""
    for picture in PICTURES:
        path = HERE / f"{picture.__name__}.jpg"
        picture().finished().save(path, quality=92)
        print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
