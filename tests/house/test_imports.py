"""The package's subpackages: who may import whom, which stay free of torch, and what an import may not do.

Everything here is read from the source with ``ast``; a new subpackage is one line in ``ALLOWED``.
"""

from __future__ import annotations

import ast
import functools
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "phl_ase"

# Every subpackage may import these; they are left out of the table below.
GROUND = {
    "errors",
    "files",
    "free_memory",
    "hessians",
    "lattice",
    "lazy",
    "pages",
    "progress",
    "tables",
    "types",
    "units",
    "unpickling",
}

# subpackage -> the subpackages that it may import, at the top of a module or inside a function.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "free_memory": set(),
    "hessians": set(),
    "lattice": set(),
    "lazy": set(),
    "pages": set(),
    "progress": set(),
    "tables": set(),
    "types": set(),
    "units": set(),
    "unpickling": set(),
    "structures": set(),
    # on structures
    "datasets": {"structures"},
    "potentials": {"structures"},
    "derivatives": {"structures"},
    "probes": {"structures"},
    # what a model has seen, by the content of its training frames
    "trained_on": {"structures", "datasets"},
    # the loss and the schemes, then what minimises them; training writes its errors as results
    "objective": {"structures", "datasets", "potentials", "derivatives", "probes"},
    "training": {
        "structures",
        "datasets",
        "potentials",
        "adapters",
        "derivatives",
        "probes",
        "objective",
        "results",
        "trained_on",
        # a committee is calibrated as it will be used, and its members are trained in processes
        "calculator",
        "jobs",
    },
    # potentials of other packages
    "adapters": {"structures", "potentials"},
    # a potential at work; the conformance checks return a Report
    "calculator": {"structures", "potentials", "adapters", "derivatives", "vibrations"},
    "conformance": {"structures", "potentials", "derivatives", "results"},
    # potentials in other people's engines
    "interop": {"structures", "calculator", "derivatives"},
    # what a MODEL or METHOD string stands for; loads torch only where a model is asked for
    "resolver": {"structures", "potentials", "adapters", "calculator", "reference"},
    # NumPy and ASE only, for any calculator: no torch below this line and above the next comment
    "results": set(),
    "vibrations": {"results"},
    "curvature": {"vibrations"},
    "paths": {"results", "vibrations", "curvature"},
    "phonons": {"results", "vibrations", "curvature"},
    "scoring": {"results", "vibrations"},
    "validators": {"results", "vibrations", "curvature", "scoring", "paths", "phonons", "resolver"},
    # figures of reports, from their arrays and metrics alone
    "plots": {"results", "scoring", "validators"},
    # labels and reaction paths: they know ASE calculators, structures and data sets, and no potential. Labelling draws
    # recorded probes; the reaction workflow labels what it finds
    # long work: tasks, their results, where they are done
    "jobs": set(),
    "reference": {"jobs", "structures", "datasets", "probes", "results", "vibrations", "curvature"},
    "reactions": {"jobs", "structures", "datasets", "paths", "reference", "results", "vibrations", "curvature"},
    # what a chemist computes for a molecule, with any calculator
    "tasks": {"results", "vibrations", "curvature", "paths"},
    # a reaction on a model that a reference teaches meanwhile
    "learning": {
        "structures",
        "datasets",
        "results",
        "vibrations",
        "curvature",
        "paths",
        "tasks",
        "reference",
        "resolver",
        "jobs",
        "training",
    },
    # puts everything together, but for the command line
    "study": {
        "jobs",
        "structures",
        "datasets",
        "potentials",
        "adapters",
        "derivatives",
        "probes",
        "objective",
        "training",
        "trained_on",
        "calculator",
        "resolver",
        "conformance",
        "paths",
        "results",
        "vibrations",
        "curvature",
        "scoring",
        "phonons",
        "validators",
        "plots",
        "reference",
    },
}
ALLOWED["cli"] = set(ALLOWED)
ALLOWED["__main__"] = {"cli"}

TORCH_FREE = {
    "errors",
    "lattice",
    "pages",
    "tables",
    "units",
    "results",
    "vibrations",
    "curvature",
    "paths",
    "phonons",
    "scoring",
    "validators",
    "plots",
    "tasks",
}


# ---------------------------------------------------------------------------------------------------- reading imports


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


@functools.cache
def syntax(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node: ast.AST, run_on_import: bool) -> Iterator[ast.AST]:
    """All nodes of a module, or only those that run when it is imported."""
    for child in ast.iter_child_nodes(node):
        if run_on_import and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            # the body waits, decorators and defaults do not
            yield from getattr(child, "decorator_list", [])
            continue
        if run_on_import and is_type_checking(child):
            for statement in child.orelse:
                yield statement
                yield from walk(statement, run_on_import)
            continue
        yield child
        yield from walk(child, run_on_import)


def imported(tree: ast.AST, known: set[str], run_on_import: bool = False) -> Iterator[tuple[str, int]]:
    """Names of the modules that a module imports, with the line; ``import_module("constant")`` counts."""
    for node in walk(tree, run_on_import):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield (full if full in known else base), node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value, node.lineno


def subpackage_of(module: str) -> str | None:
    """The subpackage of a module; ``None`` for the package's own ``__init__`` and for other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


@functools.cache
def arrows() -> list[tuple[str, str, str]]:
    """(subpackage, imported subpackage, place) of every import from one subpackage into another."""
    found = []
    for module, path in modules().items():
        source = subpackage_of(module)
        for target, line in imported(syntax(module), set(modules())):
            target = subpackage_of(target)
            if source and target and target != source:
                found.append((source, target, f"{path.relative_to(ROOT).as_posix()}:{line}"))
    return found


# ------------------------------------------------------------------------------------------------------------- arrows


def test_every_subpackage_is_in_the_table():
    subpackages = {subpackage_of(module) for module in modules()} - {None}
    unknown = sorted(subpackages - set(ALLOWED))
    assert not unknown, (
        f"subpackages {unknown} are not in ALLOWED of tests/house/test_imports.py: say there what they may import"
    )


def test_no_forbidden_arrow():
    forbidden = [
        f"{place}: {source} may not import {target}; it may import {sorted(ALLOWED.get(source, set()) | GROUND)}"
        for source, target, place in arrows()
        if target not in ALLOWED.get(source, set()) | (GROUND - {source})
    ]
    assert not forbidden, "\n" + "\n".join(forbidden)


def test_ground_imports_no_subpackage_but_errors():
    above = [f"{place}: {source} imports {target}" for source, target, place in arrows() if source in GROUND]
    assert all(line.endswith("imports errors") for line in above), "\n".join(above)


def test_imports_are_absolute_and_not_through_the_top():
    """``from phl_ase import X`` inside the package would hide which subpackage X is in."""
    bad = []
    for module, path in modules().items():
        for node in ast.walk(syntax(module)):
            if not isinstance(node, ast.ImportFrom):
                continue
            place = f"{path.relative_to(ROOT).as_posix()}:{node.lineno}"
            if node.level:
                bad.append(f"{place}: relative import; write it from {PACKAGE}")
            elif node.module == PACKAGE:
                names = [a.name for a in node.names if f"{PACKAGE}.{a.name}" not in modules()]
                bad += [f"{place}: import {n} from the subpackage it is in" for n in names if n != "__version__"]
    assert not bad, "\n" + "\n".join(bad)


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for following in sorted(graph.get(node, ())):
            if cycle := visit(following, [*path, node]):
                return cycle
        done.add(node)
        return None

    for start in sorted(graph):
        if cycle := visit(start, []):
            return cycle
    return None


def test_subpackages_have_no_cycle():
    graph: dict[str, set[str]] = {}
    for source, target, _ in arrows():
        graph.setdefault(source, set()).add(target)
    cycle = find_cycle(graph)
    assert cycle is None, f"subpackages import one another in a circle: {' -> '.join(cycle)}"


def test_the_table_has_no_cycle():
    table = {subpackage: targets - {subpackage} for subpackage, targets in ALLOWED.items()}
    assert find_cycle(table) is None


def test_the_reader_sees_what_it_should():
    """The checks above are only as good as the reading of imports."""
    source = (
        "import phl_ase.units\nfrom phl_ase import errors\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "def f():\n    from phl_ase.cli import main\n    importlib.import_module('phl_ase.study')\n"
    )
    tree, known = ast.parse(source), {"phl_ase.errors"}
    everywhere = {name for name, _ in imported(tree, known)}
    assert everywhere == {"phl_ase.units", "phl_ase.errors", "typing", "torch", "phl_ase.cli", "phl_ase.study"}
    assert {name for name, _ in imported(tree, known, run_on_import=True)} == {
        "phl_ase.units",
        "phl_ase.errors",
        "typing",
    }
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]


# -------------------------------------------------------------------------------------------------------------- torch

BRINGS_TORCH = {
    *("torch", "jaxtyping.torch", "vesin", "vesin_torch", "safetensors.torch"),
    *("mace", "torchani", "aimnet", "hippynn", "graph_pes", "torch_sim"),
}


def loaded_on_import(module: str) -> Iterator[str]:
    """Modules of this package that importing one loads directly: its parents and what its top level imports."""
    known = set(modules())
    names = [module, *(name for name, _ in imported(syntax(module), known, run_on_import=True))]
    for name in names:
        parts = name.split(".")
        yield from (".".join(parts[:k]) for k in range(1, len(parts) + 1) if ".".join(parts[:k]) in known)


def way_to_torch(module: str, seen: set[str]) -> list[str] | None:
    """The chain of imports by which a module loads torch, or ``None``."""
    seen.add(module)
    for name, line in imported(syntax(module), set(modules()), run_on_import=True):
        if name in BRINGS_TORCH or name.split(".")[0] in BRINGS_TORCH:
            return [f"{module}:{line} imports {name}"]
    for following in loaded_on_import(module):
        if following not in seen and (rest := way_to_torch(following, seen)):
            return [module, *rest]
    return None


def torch_free_modules() -> list[str]:
    return [PACKAGE, *(m for m in modules() if subpackage_of(m) in TORCH_FREE)]


@pytest.mark.parametrize("module", torch_free_modules())
def test_module_does_not_load_torch(module):
    chain = way_to_torch(module, set())
    assert chain is None, "torch is loaded by way of " + " -> ".join(chain)


@pytest.mark.parametrize("module", torch_free_modules())
def test_module_never_imports_torch_itself(module):
    """Not inside a function either: what is scored may be any ASE calculator."""
    bad = [f"line {n}" for name, n in imported(syntax(module), set(modules())) if name.split(".")[0] in BRINGS_TORCH]
    assert not bad, f"{module} imports torch at {', '.join(bad)}"


def in_new_interpreter(code: str) -> dict:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_the_package_is_fast_and_loads_nothing_heavy():
    code = (
        "import json, sys, time; start = time.perf_counter(); import phl_ase; seconds = time.perf_counter() - start;"
        "heavy = sorted({'torch', 'ase', 'numpy', 'scipy', 'jax', 'matplotlib'} & set(sys.modules));"
        "print(json.dumps({'seconds': seconds, 'heavy': heavy}))"
    )
    seen = in_new_interpreter(code)
    assert seen["heavy"] == []
    assert seen["seconds"] < 1.0


@pytest.mark.slow
def test_torch_free_subpackages_do_not_load_torch_through_other_packages():
    """What ``ast`` cannot see: whether ASE or phonopy load torch.

    Sella does, where it is installed, by way of JAX; the one module that needs Sella at its top is loaded by searches
    alone.
    """
    names = ", ".join(name for name in torch_free_modules() if name != "phl_ase.paths.sella_hvp")
    seen = in_new_interpreter(
        f"import json, sys; import {names}; print(json.dumps({{'torch': 'torch' in sys.modules}}))"
    )
    assert not seen["torch"]


@pytest.mark.parametrize("package", ["structures", "potentials", "training"])
def test_what_a_package_exports_lazily_is_what_it_says(package):
    module = importlib.import_module(f"phl_ase.{package}")
    assert sorted(name for names in module._HOMES.values() for name in names) == sorted(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)


# ------------------------------------------------------------------------------------------------------- side effects

# calls that change the state of the whole process: never
GLOBAL_STATE = re.compile(
    r"^(torch\.(set_default_\w+|manual_seed|use_deterministic_algorithms|cuda\.manual_seed\w*)"
    r"|torch\.random\.manual_seed|(np|numpy)\.random\.seed|random\.seed)$"
)
# and these not at import; inside a function the caller has asked for it
AT_IMPORT = re.compile(
    r"^(os\.(environ\.\w+|putenv|unsetenv|chdir)|warnings\.(filterwarnings|simplefilter)|logging\.basicConfig"
    r"|torch\.set_\w+|torch\.backends\..*|matplotlib\.use|plt\.switch_backend|jax\.config\.update|signal\.signal"
    r"|sys\.path\.\w+|print|open)$"
)
ENVIRONMENT = re.compile(r"^(os\.environ\[|torch\.backends\.|sys\.path\b)")


# what sets such a state for a while, and back: module -> the call
SETS_BACK = {"phl_ase.adapters.containment": "torch.set_default_dtype"}


def side_effects(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and GLOBAL_STATE.match(ast.unparse(node.func)):
            yield f"{node.lineno}: {ast.unparse(node.func)} changes global state"
    for node in walk(tree, run_on_import=True):
        if isinstance(node, ast.Call) and AT_IMPORT.match(ast.unparse(node.func)):
            name = ast.unparse(node.func)
            if name not in {"os.environ.get", "os.environ.copy"}:
                yield f"{node.lineno}: {name} at import"
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete)):
            targets = node.targets if isinstance(node, (ast.Assign, ast.Delete)) else [node.target]
            for target in targets:
                if ENVIRONMENT.match(ast.unparse(target)):
                    yield f"{node.lineno}: {ast.unparse(target)} is set at import"


@pytest.mark.parametrize("module", sorted(modules()))
def test_import_has_no_side_effects(module):
    place = modules()[module].relative_to(ROOT).as_posix()
    allowed = SETS_BACK.get(module, "nothing")
    found = [f"{place}:{effect}" for effect in side_effects(syntax(module)) if allowed not in effect]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.environ['A'] = '1'",
        "import os\nos.environ.setdefault('A', '1')",
        "import torch\ntorch.set_num_threads(1)",
        "def f():\n    torch.manual_seed(0)",
        "def f():\n    np.random.seed(0)",
        "if True:\n    warnings.filterwarnings('ignore')",
    ],
)
def test_side_effects_are_seen(source):
    assert list(side_effects(ast.parse(source)))


def test_local_generators_are_no_side_effect():
    source = "def f():\n    g = torch.Generator().manual_seed(0)\n    os.environ['A'] = '1'"
    assert not list(side_effects(ast.parse(source)))


# -------------------------------------------------------------------------------------------------------------- files

TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".sh", ".cfg", ".txt", ".json", ".csv", ".html", ""}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|work|mnt|opt|Users|tmp/[a-z_]+)/[^\s\"')]*")
PACKAGE_SERVER = re.compile(r"(?:--?(?:extra-)?index-url|--find-links|--trusted-host|\bindex_url\b)\b", re.IGNORECASE)
INSTALL_FILES = {"constraints.txt", "Makefile", ".ci/run"}


def own_files() -> list[str]:
    """Files that are committed or would be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_file_names_a_machine_or_a_package_server():
    bad = []
    for name in own_files():
        if Path(name).suffix not in TEXT or name == Path(__file__).relative_to(ROOT).as_posix():
            continue
        text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
        bad += [f"{name}: a path of one machine: {m.group(0)[:60]}" for m in MACHINE_PATH.finditer(text)]
        bad += [
            f"{name}: where packages come from is the user's setting: {m.group(0)}"
            for m in PACKAGE_SERVER.finditer(text)
        ]
        if name in INSTALL_FILES and "://" in text:
            bad.append(f"{name}: names a server; packages are named, never where they come from")
    assert not bad, "\n" + "\n".join(bad)
