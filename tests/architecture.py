"""The rules of the source tree, checked on its syntax trees; no module is imported.

A rule is a function that takes a `Tree` and returns one line for each violation."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

LAYERS = ("indexes", "retrieval", "cli")  # a layer imports itself and those before it
PLACES = (*LAYERS, "tests", "benchmarks")
MOST_LINES = 300
REASON = "Long because"  # in the docstring of a module with more lines
FORBIDDEN = frozenset({"found", "each", "there", "said", "whole", "own", "told"})
PRIVATE = re.compile(r"_[A-Za-z]\w*")


@dataclass(frozen=True)
class Module:
    """name: dotted; a package has the name of its folder. file: relative to the tree's root."""

    name: str
    file: str
    text: str

    @cached_property
    def syntax(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def is_package(self) -> bool:
        return self.file.endswith("__init__.py")

    @property
    def place(self) -> str:
        """The top-level folder, for tests with the folder below it: `retrieval`, `tests/indexes`, `tests`."""
        first, *rest = self.file.split("/")
        return f"tests/{rest[0]}" if first == "tests" and len(rest) > 1 else first


class Tree:
    """The modules below a root: those of the packages, of the tests and of the benchmarks."""

    def __init__(self, root: Path) -> None:
        self.root = root
        files = sorted(file for place in PLACES for file in (root / place).rglob("*.py"))
        self.modules = {module.name: module for module in (_read(root, file) for file in files)}
        self.imports = {name: self._imports_of(module) for name, module in self.modules.items()}

    def _imports_of(self, module: Module) -> frozenset[str]:
        """The modules of the tree that a module imports: anywhere in it, also in functions and for types only."""
        names = set()
        for node in ast.walk(module.syntax):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = _base_of(module, node)
                names |= {
                    f"{base}.{alias.name}" if f"{base}.{alias.name}" in self.modules else base for alias in node.names
                }
        return frozenset(names & self.modules.keys()) - {module.name}

    def reachable(self, name: str, through: Sequence[str] = PLACES) -> Iterator[tuple[str, str]]:
        """Pairs (importing, imported) that are reached from a module by way of modules of the given folders."""
        seen, waiting = {name}, [name]
        while waiting:
            importing = waiting.pop()
            for imported in sorted(self.imports[importing]):
                yield importing, imported
                if imported not in seen and imported.split(".")[0] in through:
                    seen.add(imported)
                    waiting.append(imported)


def _read(root: Path, file: Path) -> Module:
    relative = file.relative_to(root)
    parts = relative.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return Module(name, relative.as_posix(), file.read_text("utf-8"))


def _base_of(module: Module, node: ast.ImportFrom) -> str:
    """The absolute name after `from`."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parents = parts[: len(parts) - node.level + module.is_package]
    return ".".join([*parents, *([node.module] if node.module else [])])


def circles(tree: Tree) -> list[str]:
    """No module imports itself by way of others."""
    lines = []
    for component in _strongly_connected(tree.imports):
        if len(component) > 1:
            lines.append(f"a circle: {' <-> '.join(sorted(component))}")
    return sorted(lines)


def _strongly_connected(graph: dict[str, frozenset[str]]) -> Iterator[list[str]]:
    """The strongly connected components, by Tarjan's algorithm (SIAM J. Comput. 1, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> Iterator[list[str]]:
        index[node] = low[node] = len(index)
        stack.append(node)
        for following in sorted(graph[node]):
            if following not in index:
                yield from visit(following)
                low[node] = min(low[node], low[following])
            elif following in stack:
                low[node] = min(low[node], index[following])
        if low[node] == index[node]:
            cut = stack.index(node)
            component = stack[cut:]
            del stack[cut:]
            yield component

    for node in sorted(graph):
        if node not in index:
            yield from visit(node)


def arrows_upwards(tree: Tree) -> list[str]:
    """A layer imports only itself and lower layers. The same holds for its tests and the modules that they share."""
    lines = []
    for name, module in tree.modules.items():
        layer = module.place.removeprefix("tests/")
        if layer not in LAYERS:
            continue
        is_test = module.place.startswith("tests/")
        upper = LAYERS[LAYERS.index(layer) + 1 :]
        pairs = tree.reachable(name, ["tests"]) if is_test else ((name, imported) for imported in tree.imports[name])
        for importing, imported in pairs:
            target = tree.modules[imported].place
            is_upwards = target.removeprefix("tests/") in upper or (not is_test and target not in LAYERS)
            if is_upwards:
                by_way = f" by way of {tree.modules[importing].file}" if importing != name else ""
                lines.append(f"{module.file} imports {imported}{by_way}")
    return sorted(set(lines))


def long_files(tree: Tree) -> list[str]:
    """A file with more than 300 lines says in its docstring why: "Long because ..."."""
    return [
        f"{module.file} has {module.text.count(chr(10))} lines and no reason"
        for module in tree.modules.values()
        if module.text.count("\n") > MOST_LINES and REASON not in (ast.get_docstring(module.syntax) or "")
    ]


def folders_without_docstring(tree: Tree) -> list[str]:
    """Every folder of a package has an `__init__.py` with a docstring: which question it answers."""
    folders = {file.parent for layer in LAYERS for file in (tree.root / layer).rglob("*.py")}
    lines = []
    for folder in sorted(folders):
        name = folder.relative_to(tree.root).as_posix()
        package = tree.modules.get(name.replace("/", "."))
        if package is None or not ast.get_docstring(package.syntax):
            lines.append(f"{name}/__init__.py has no docstring")
    return lines


def private_names(tree: Tree) -> list[str]:
    """A name that begins with an underscore is used only by the module that defines it.

    An attribute of an object counts if a module that is imported, also by way of others, has a class with it: others'
    libraries may give their attributes the same names."""
    of_module = {name: set(_private_globals(module.syntax)) for name, module in tree.modules.items()}
    of_classes = {name: set(_private_members(module.syntax)) for name, module in tree.modules.items()}
    anywhere = set().union(*of_module.values(), *of_classes.values())
    lines = []
    for name, module in tree.modules.items():
        uses = list(_private_uses(module.syntax))
        if not uses:
            continue
        members = set().union(*(of_classes[imported] for _, imported in tree.reachable(name)))
        imported_names = _imported_names(module)
        for line, owner, used in uses:
            foreign = anywhere if owner is None or owner in imported_names else members
            if used in foreign - of_module[name] - of_classes[name]:
                lines.append(f"{module.file}:{line} uses {used} of another module")
    return sorted(set(lines))


def _private_globals(syntax: ast.Module) -> Iterator[str]:
    for node in syntax.body:
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
            names = [target.id for target in targets if isinstance(target.ctx, ast.Store)]
        yield from (name for name in names if PRIVATE.fullmatch(name))


def _private_members(syntax: ast.Module) -> Iterator[str]:
    """Methods, fields, and attributes that are set on `self` or `cls`."""
    for node in ast.walk(syntax):
        if isinstance(node, ast.ClassDef):
            yield from _private_globals(ast.Module(node.body, []))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            yield from [node.attr] if of_self and PRIVATE.fullmatch(node.attr) else []


def _imported_names(module: Module) -> set[str]:
    """The names by which a module knows what it imports from the tree."""
    names = set()
    for node in ast.walk(module.syntax):
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = _base_of(module, node) if isinstance(node, ast.ImportFrom) else ""
            origins = {alias.asname or alias.name: base or alias.name for alias in node.names}
            names |= {name for name, origin in origins.items() if origin.split(".")[0] in PLACES}
    return names


def _private_uses(syntax: ast.Module) -> Iterator[tuple[int, str | None, str]]:
    """The line, owner and name of imports, of attributes, and of texts that name an attribute, as in
    `monkeypatch.setattr(module, "_name", ...)`. The owner of an import, and of a text, is None."""
    for node in ast.walk(syntax):
        owner: str | None = None
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] in PLACES):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            owner, names = ast.unparse(node.value), [node.attr]
        elif isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("setattr", "getattr", "delattr"):
                texts = [argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant)]
                names = [text.rpartition(".")[2] for text in texts if isinstance(text, str)]
        yield from ((getattr(node, "lineno", 0), owner, name) for name in names if PRIVATE.fullmatch(name))


def forbidden_identifiers(tree: Tree) -> list[str]:
    """No identifier is a word that says nothing about the thing it names."""
    return [
        f"{module.file}:{line} is called {name}"
        for module in tree.modules.values()
        for line, name in _identifiers(module.syntax)
        if name.strip("_") in FORBIDDEN
    ]


def _identifiers(syntax: ast.Module) -> Iterator[tuple[int, str]]:
    """The names that a module gives or uses, with their lines; of an import only the alias, since the rest is given."""
    for node in ast.walk(syntax):
        for field in ("asname",) if isinstance(node, ast.alias) else ("id", "attr", "arg", "name", "rest"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield getattr(node, "lineno", 0), name


RULES: Sequence[Callable[[Tree], list[str]]] = (
    circles,
    arrows_upwards,
    long_files,
    folders_without_docstring,
    private_names,
    forbidden_identifiers,
)
