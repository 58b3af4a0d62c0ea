"""The hash of what functions do, on a package of two modules that is edited."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datagen.common.code_hash import code_hash

HELPERS = '''
"""Helpers."""
import functools
import re

LIMIT = 3
NAMES = {"one", "two", "three"}
TABLE = {"a": [1, 2], "b": [3]}
WORD = re.compile("[a-z]+")
UNUSED = 1

class Scale:
    """A class."""
    top = 10

    def apply(self, value):
        """How much."""
        return min(value, self.top) / LIMIT

SCALE = Scale()

def even(n):
    return n == 0 or odd(n - 1)

def odd(n):
    return n != 0 and even(n - 1)

@functools.cache
def size(text):
    """The length."""
    return len(WORD.findall(text))

def lazily(text):
    return text[0]
'''
REWARDS = '''
"""Rewards."""
from . import helpers
from .helpers import SCALE, TABLE, even as is_even, size

def draw(size):  # not judged by
    return helpers.UNUSED

def reward(message, example):
    """What is earned."""
    SIZE = [helpers for helpers in example]  # a local name, as one of the module
    return size(message) + SCALE.apply(3) + (message in helpers.NAMES) + inner(2)

def inner(n, least=1):
    def deeper(m):
        return is_even(m) and TABLE
    return deeper(max(n, least))

def make(factor):
    return lambda message, example: factor * len(message)

def importing(message, example):
    from . import helpers as late
    from .helpers import lazily
    return lazily(message) and late.odd(3)

FUNCTIONS = {"reward": reward, "importing": importing, "twice": make(2), "a": lambda m, e: 1.0, "b": lambda m, e: 0.5}
'''
Hash = Callable[..., str]


@pytest.fixture
def hash_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hash]:
    """Calls with an edit of either module, or none: the hash of the functions of the package then."""
    numbers = itertools.count()

    def imported(old: str = "", new: str = "") -> str:
        folder = tmp_path / str(next(numbers))
        (folder / "judges").mkdir(parents=True)
        sources = {"__init__": "", "helpers": HELPERS, "rewards": REWARDS}
        assert any(old in source for source in sources.values()), old
        for name, source in sources.items():
            (folder / "judges" / f"{name}.py").write_text(source.replace(old, new) if old else source)
        for name in [name for name in sys.modules if name.partition(".")[0] == "judges"]:
            del sys.modules[name]
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            return code_hash(importlib.import_module("judges.rewards").FUNCTIONS, "datagen")

    yield imported
    for name in [name for name in sys.modules if name.partition(".")[0] == "judges"]:
        del sys.modules[name]


SAME = {
    "a comment": ("# not judged by", "# by nobody"),
    "a docstring": ("What is earned.", "What one gets."),
    "a docstring of a class": ("A class.", "A scale."),
    "a docstring of a module": ('"""Helpers."""', '"""More helpers."""\n\n'),
    "layout": ("    return n == 0 or odd(n - 1)", "    return (\n        n == 0 or odd(n - 1))"),
    "another function": ("return helpers.UNUSED", "return None"),
    "a constant that nothing names": ("UNUSED = 1", "UNUSED = 2"),
    "the order of a set": ('{"one", "two", "three"}', '{"three", "two", "one"}'),
    "the order of a dictionary": ('{"a": [1, 2], "b": [3]}', '{"b": [3], "a": [1, 2]}'),
    "the place of a function": ("def draw(size):", "def more():\n    pass\n\ndef draw(size):"),
    "the order of the rewards": (
        '"reward": reward, "importing": importing,',
        '"importing": importing, "reward": reward,',
    ),
}
OTHER = {
    "a reward": ("size(message) + SCALE", "size(message) * SCALE"),
    "a default": ("least=1", "least=2"),
    "a function inside another": ("is_even(m) and TABLE", "is_even(m) or TABLE"),
    "a helper in another module": ("return len(WORD", "return 1 + len(WORD"),
    "a helper of a helper": ("n != 0 and even", "n != 1 and even"),
    "a helper imported in a function": ("return text[0]", "return text[1]"),
    "a number": ("LIMIT = 3", "LIMIT = 4"),
    "a set": ('"three"}', '"four"}'),
    "a dictionary": ("[3]}", "[4]}"),
    "a pattern": ("[a-z]+", "[a-y]+"),
    "flags of a pattern": ('"[a-z]+"', '"[a-z]+", re.I'),
    "a method": ("min(value, self.top)", "max(value, self.top)"),
    "a value of a class": ("top = 10", "top = 11"),
    "what a closure holds": ("make(2)", "make(3)"),
    "a lambda": ("lambda m, e: 0.5", "lambda m, e: 0.6"),
    "two lambdas exchanged": ("lambda m, e: 1.0, \"b\": lambda m, e: 0.5", "lambda m, e: 0.5, \"b\": lambda m, e: 1.0"),
    "the name of a reward": ('"b": lambda', '"c": lambda'),
    "a name that means something else": ("even as is_even", "odd as is_even"),
}  # fmt: skip


@pytest.mark.parametrize("edit", SAME.values(), ids=list(SAME))
def test_what_judges_nothing_leaves_the_hash(edit: tuple[str, str], hash_of: Hash) -> None:
    assert hash_of(*edit) == hash_of()


@pytest.mark.parametrize("edit", OTHER.values(), ids=list(OTHER))
def test_what_judges_changes_the_hash(edit: tuple[str, str], hash_of: Hash) -> None:
    assert hash_of(*edit) != hash_of()


def test_code_without_a_source_is_said_so() -> None:
    variables: dict[str, Callable[..., float]] = {}
    exec("def reward(message, example): return 1.0", {"__name__": "judges"}, variables)
    with pytest.raises(OSError, match="not to be had"):
        code_hash(variables, "datagen")
