"""A hash of what functions do: of their code, and of all that it calls or names in the same packages."""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import importlib.util
import linecache
import re
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

READS_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda


def code_hash(functions: Mapping[str, Any], package: str) -> str:
    """SHA-256, as 64 hexadecimal digits, of named functions (or other values) and of what they lead to.

    Covered is what stands in `package` or in the top-level packages of the functions: functions, classes, instances and
    constants, in their turn. Of anything else the name counts. Code counts without comments, docstrings and layout; it
    does not matter which file of the packages it stands in.

    Raises:
        OSError: where the source of a function is not to be had.
    """
    describer = _Describer({package, *(_package(function) for function in functions.values())})
    described = describer.describe(functions)
    return hashlib.sha256("\0".join([described, *describer.definitions]).encode()).hexdigest()


def _package(value: Any) -> str:
    """The top-level package in which a function, a class, or the class of an instance is defined."""
    module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return str(module or type(value).__module__).partition(".")[0]


def _sort_key(value: Any) -> str:
    return str(getattr(value, "__qualname__", None) or repr(value))


class _Describer:
    """Writes values as text. Definitions are written once, and named by the order in which they were met."""

    def __init__(self, packages: set[str]) -> None:
        self.packages = packages
        self.definitions: list[str] = []
        self._numbers: dict[int, tuple[int, Any]] = {}  # by identity; the value is kept, so that no other takes its id

    def describe(self, value: Any) -> str:
        """A value as text: the same in every process, whatever the order of its sets and dictionaries."""
        match value:
            case None | bool() | int() | float() | complex() | str() | bytes() | range():
                return repr(value)
            case re.Pattern():
                parts: Any = ("pattern", value.pattern, value.flags)
            case functools.partial():
                parts = ("partial", value.func, value.args, value.keywords)
            case MethodType():
                parts = ("method", value.__func__, value.__self__)
            case functools._lru_cache_wrapper():
                parts = ("cache", value.__wrapped__)
            case set() | frozenset():
                parts = ("set", *sorted(value, key=_sort_key))
            case Mapping():
                parts = ("mapping", *((key, value[key]) for key in sorted(value, key=_sort_key)))
            case tuple() | list():
                parts = value
            case _:
                return self._describe_object(value)
        return f"[{', '.join(map(self.describe, parts))}]"

    def _describe_object(self, value: Any) -> str:
        if hasattr(value, "tolist"):  # an array
            return self.describe(value.tolist())
        if _package(value) not in self.packages:
            return f"{_package(value)}:{getattr(value, '__name__', type(value).__name__)}"
        if isinstance(value, ModuleType):  # what is taken of it counts
            return "module"
        return self._reference(value)

    def _reference(self, value: Any) -> str:
        if id(value) not in self._numbers:
            number = len(self.definitions)
            self._numbers[id(value)] = number, value
            self.definitions.append("")  # its place, since it may lead to itself
            self.definitions[number] = self._define(value)
        return f"#{self._numbers[id(value)][0]}"

    def _define(self, value: Any) -> str:
        if isinstance(value, FunctionType):
            cells = {name: cell.cell_contents for name, cell in _closure(value)}
            node = _find_function(value.__code__, value.__globals__)
            defaults = self.describe((value.__defaults__, value.__kwdefaults__))
            return f"{self._code(node, value.__code__, value.__globals__, cells)}\n{defaults}"
        if isinstance(value, type):
            module = importlib.import_module(value.__module__)
            class_node = _find_class(value, module)
            body = ast.Module([class_node], type_ignores=[])
            code = compile(body, "", "exec", annotations.compiler_flag, dont_inherit=True)
            return self._code(class_node, code, vars(module), {})
        return self.describe((type(value), getattr(value, "__dict__", repr(value))))

    def _code(self, node: Definition, code: CodeType, variables: Mapping[str, Any], cells: Mapping[str, Any]) -> str:
        """A definition as code, and what each name in it stands for."""
        known = {name: variables[name] for name in _global_names(code) if name in variables}
        known |= {**cells, **self._local_imports(node, str(variables.get("__package__") or ""))}
        named = {}
        for first, *attributes in _dotted_names(node):
            if first in known:
                name, value = first, known[first]
                while attributes and isinstance(value, ModuleType) and _package(value) in self.packages:
                    name, value = f"{name}.{attributes[0]}", getattr(value, attributes.pop(0))
                named[name] = value
        return f"{ast.unparse(node)}\n{self.describe(named)}"

    def _local_imports(self, node: Definition, package: str) -> dict[str, Any]:
        """What the imports inside a function bind, where they import from the packages that are covered."""
        bound: dict[str, Any] = {}
        for one in ast.walk(node):
            if isinstance(one, ast.ImportFrom):
                name = importlib.util.resolve_name("." * one.level + (one.module or ""), package)
                if name.partition(".")[0] in self.packages:
                    module = importlib.import_module(name)
                    for alias in one.names:
                        if not hasattr(module, alias.name):
                            importlib.import_module(f"{name}.{alias.name}")
                        bound[alias.asname or alias.name] = getattr(module, alias.name)
            elif isinstance(one, ast.Import):
                for alias in one.names:
                    top = alias.name.partition(".")[0]
                    if top in self.packages:
                        module = importlib.import_module(alias.name)
                        bound[alias.asname or top] = module if alias.asname else importlib.import_module(top)
        return bound


def _closure(function: FunctionType) -> Iterator[tuple[str, Any]]:
    return zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)


def _global_names(code: CodeType) -> set[str]:
    """The names that a code object, or one inside it, looks up among the module's or the class's variables."""
    names = {str(one.argval) for one in dis.get_instructions(code) if one.opname in READS_GLOBAL}
    return names.union(*(_global_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _dotted_names(node: ast.AST) -> Iterator[list[str]]:
    """Every name in the code, with the attributes that are taken of it: `["r1_format", "parse"]`."""
    for one in ast.walk(node):
        attributes: list[str] = []
        while isinstance(one, ast.Attribute):
            attributes.insert(0, one.attr)
            one = one.value  # noqa: PLW2901
        if isinstance(one, ast.Name):
            yield [one.id, *attributes]


def _find_function(code: CodeType, variables: dict[str, Any]) -> Definition:
    """A function's or a lambda's definition in its file."""
    positions = [position for position in code.co_positions() if None not in position and position[3]]
    found = [
        node
        for node in ast.walk(_parse_file(code.co_filename, variables))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        and getattr(node, "name", "<lambda>") == code.co_name
        and _first_line(node) == code.co_firstlineno
        and (not isinstance(node, ast.Lambda) or all(_contains(node.body, position) for position in positions))
    ]
    if not found:
        raise OSError(f"the source of {code.co_qualname} in {code.co_filename} is not to be had, or was edited since")
    return min(found, key=lambda node: len(ast.unparse(node)))  # of a lambda in a lambda, the inner one


def _find_class(cls: type, module: ModuleType) -> ast.ClassDef:
    tree = _parse_file(str(module.__file__), vars(module))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == cls.__name__]
    if not found:
        raise OSError(f"the source of {cls.__qualname__} in {module.__name__} is not to be had")
    return found[0]


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min(one.lineno for one in (node, *decorators))


def _contains(node: ast.expr, position: tuple[Any, ...]) -> bool:
    """Whether a node contains a position: (first line, last line, first column, end column)."""
    start, end = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
    return start <= (position[0], position[2]) and (position[1], position[3]) <= end


def _parse_file(path: str, variables: dict[str, Any]) -> ast.Module:
    return _parse("".join(linecache.getlines(path, variables)))


@functools.cache  # several functions of a task stand in one file
def _parse(source: str) -> ast.Module:
    """The syntax tree of a file, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.copy_location(ast.Pass(), node)]
    return tree
