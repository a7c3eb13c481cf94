"""The order of packages: imports point one way along it, inside functions too, and no modules import each other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ORDER = (
    "config",
    "machine",
    "data",
    "kernels",
    "models",
    "fast",
    "attacks",
    "detectors",
    "checkpoints",
    "evaluation",
    "training",
    "paper",
    "reporting",
    "runs",
    "cli",
)
"""The packages of `cce`: each may import itself and those before it."""

# Imports against the order, as (module, package), that are known and have to go. Remove a line when it is mended.
KNOWN: set[tuple[str, str]] = set()

# Modules that import each other, known and to be mended.
KNOWN_CIRCLES: set[frozenset[str]] = set()


def modules(*packages: str) -> dict[str, Path]:
    """Every module of the packages by its dotted name."""
    found = {}
    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, source: str, known: dict[str, Path]) -> Iterator[str]:
    """The modules of `known` that a module's source imports, anywhere in it."""
    package = name if known.get(name, Path()).name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            source_module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{source_module}.{alias.name}" for alias in node.names]
            wanted = [full if full in known else source_module for full in names]
        else:
            continue
        yield from (module for module in wanted if module in known and module != name)


def graph(*packages: str) -> dict[str, set[str]]:
    """For each module, the modules that it imports."""
    known = modules(*packages)
    return {name: set(imports(name, path.read_text(encoding="utf-8"), known)) for name, path in known.items()}


def package_of(module: str) -> str:
    """The package within `cce` or `app`; empty for `cce` itself."""
    inner = module.split(".")[1:2]
    return inner[0] if inner else ""


def circles(edges: dict[str, set[str]]) -> set[frozenset[str]]:
    """Groups of modules that import each other, directly or by way of others (Tarjan's strongly connected parts)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            part = set()
            while node not in part:
                part.add(stack.pop())
            if len(part) > 1:
                found.add(frozenset(part))

    for node in edges:
        if node not in index:
            visit(node)
    return found


def test_every_module_is_in_a_package_of_the_order():
    inner = {package_of(name) for name in modules("cce")} - {"", "__main__"}
    assert inner <= set(ORDER)


def test_imports_point_one_way():
    against = set()
    for name, imported in graph("cce").items():
        here = package_of(name)
        if here not in ORDER:
            continue
        for other in map(package_of, imported):
            if other in ORDER and ORDER.index(other) > ORDER.index(here):
                against.add((name, other))
    assert against - KNOWN == set(), "these imports go against the order of packages"
    assert KNOWN - against == set(), "these are mended: take them out of KNOWN"


def test_no_modules_import_each_other():
    found = circles(graph("cce", "app"))
    assert found - KNOWN_CIRCLES == set(), "these modules import each other"
    assert KNOWN_CIRCLES - found == set(), "these are mended: take them out of KNOWN_CIRCLES"


def test_the_library_knows_no_screen():
    for path in modules("cce").values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] in ("app", "gradio")], path


PARTS = ("services", "figures", "api", "tabs")
"""The packages of `app`; its own modules, beside them, may import each."""

CLAIM = re.compile(r".+ May be imported by: (?P<importers>.+)\. Must not go in: .+")
"""What a package is for, what may import it, and what must not go in."""


def claimed(package: str) -> set[str]:
    """The importers that a package's docstring names, of `ORDER`, `PARTS` and `app`; raises where it names none."""
    docstring = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8")))
    words = CLAIM.match(" ".join((docstring or "").split()))
    assert words, f"{package} does not say what it is for, what may import it and what must not go in"
    text = words["importers"]
    found = {name for name in (*ORDER, *PARTS) if re.search(rf"\b{name}\b", text)}
    if "what follows" in text:
        found |= set(ORDER[min(map(ORDER.index, found)) :])
    other_names = {"the app": "app", "the Studio": "app", "the command line": "cli"}
    return found | {name for words, name in other_names.items() if words in text}


def test_a_package_says_what_it_is_for_and_what_may_import_it():
    importers: dict[str, set[str]] = {}
    for name, imported in graph("cce", "app").items():
        top, here = name.partition(".")[0], package_of(name)
        for other in imported:
            package = f"{other.partition('.')[0]}/{package_of(other)}"
            same = top == package.partition("/")[0]
            if (ROOT / package).is_dir() and not (same and here == package_of(other)):
                who = here if same and (here in PARTS or here in ORDER) else top
                importers.setdefault(package, set()).add(who)
    for package in (*(f"cce/{name}" for name in ORDER), *(f"app/{name}" for name in PARTS)):
        told = claimed(package)
        against = importers.get(package, set()) - {"cce", "app"} - told
        assert not against, f"{package} is imported by {against}, which its docstring does not name"
        if package.startswith("cce"):
            place = ORDER.index(package_of(package.replace("/", ".")))
            assert all(ORDER.index(name) > place for name in told & set(ORDER)), f"{package} names one before it"
            assert "app" not in importers.get(package, set()) or "app" in told, f"{package} does not name the app"
    claimed("cce"), claimed("app")


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    from cce.b import c", {"cce.b.c"}),
        ("import cce.b.c as x", {"cce.b.c"}),
        ("from cce.b.c import name", {"cce.b.c"}),
        ("from . import c", {"cce.b.c"}),
        ("from .c import name", {"cce.b.c"}),
        ("import os", set()),
    ],
)
def test_imports_are_seen_wherever_they_stand(source, found):
    known = {"cce.b": Path("cce/b/__init__.py"), "cce.b.a": Path("cce/b/a.py"), "cce.b.c": Path("cce/b/c.py")}
    assert set(imports("cce.b.a", source, known)) == found


def test_circles_are_found():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}
    assert circles(edges) == {frozenset("abc")}
    assert circles({"a": {"b"}, "b": set()}) == set()
