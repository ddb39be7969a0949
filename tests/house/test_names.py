"""One meaning for each public constant and class name of the package; private names stay in their subpackage.

Everything is read from the source with ``ast``. Not compared: options of commands and fields of configurations, which
are ``Annotated`` types, type variables, and other names of types within ``phl_ase.cli``.
"""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "phl_ase"

SEVERAL = {
    "COMMANDS": "the commands of one group each, joined by phl_ase.cli.app",
    "Task": "what phl_ase.jobs runs, and a training run of a study made one",
}
"""Name that several modules define otherwise -> why."""


@functools.cache
def parsed() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def definitions(path: Path, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name, what it stands for) of each public constant, class and type at the top of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names, meaning = [node.name], f"class of {path}"
        elif isinstance(node, ast.Assign):
            names, meaning = [one.id for one in node.targets if isinstance(one, ast.Name)], ast.unparse(node.value)
        elif isinstance(node, ast.AnnAssign) and node.value and isinstance(node.target, ast.Name):
            names, meaning = [node.target.id], ast.unparse(node.value)
        else:
            continue
        is_class = isinstance(node, ast.ClassDef)
        for name in names:
            is_type = not is_class and not name.isupper()
            if name.startswith("_") or not name[0].isupper():
                continue
            if is_type and (meaning.startswith(("Annotated[", "TypeVar(")) or path.is_relative_to(ROOT / "cli")):
                continue
            yield name, meaning


def clashes(trees: dict[Path, ast.Module]) -> dict[str, list[str]]:
    """Name -> modules that define it with different meanings."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path, tree in trees.items():
        for name, meaning in definitions(path, tree):
            found[name].setdefault(meaning, path.relative_to(ROOT).as_posix())
    return {name: list(modules.values()) for name, modules in found.items() if len(modules) > 1}


def test_a_name_has_one_meaning():
    wrong = {name: modules for name, modules in clashes(parsed()).items() if name not in SEVERAL}
    lines = [f"{name}: {', '.join(modules)}" for name, modules in sorted(wrong.items())]
    assert not lines, "rename all but one, or define it once and import it:\n" + "\n".join(lines)


def test_clashes_are_seen():
    one, other = ROOT / "a.py", ROOT / "b.py"
    source = {
        one: "SMALL = 64\nclass Frame: ...\nMESH = 2\nT = TypeVar('T')",
        other: "SMALL: int = 1\nFrame = dict\nMESH = 2",
    }
    assert set(clashes({path: ast.parse(text) for path, text in source.items()})) == {"SMALL", "Frame"}


def test_private_names_stay_in_their_subpackage():
    wrong = []
    for path, tree in parsed().items():
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("phl_ase."):
                continue
            parts = [*(node.module or "").split(".")[1:], *(alias.name for alias in node.names)]
            private = [one for one in parts if one.startswith("_") and not one.startswith("__")]
            if private and parts[0] != own:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {private[0]} of {node.module}")
    assert not wrong, "\n".join(wrong)
