"""A package with a dataset of one's own, to begin with: it can be installed, and its test passes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from string import Template

from datagen.common.errors import UserError, writable_folder
from datagen.common.files import write_text
from datagen.registry import known_datasets
from datagen.registry.code import is_name


def write_package(name: str, folder: Path) -> Path:
    """Write a package with the dataset `name` into a new folder; returns its task file.

    Raises:
        UserError: where the name can't be or is taken, or the folder has something in it.
    """
    if not is_name(name):
        raise UserError(f"{name!r} can't be the name of a dataset: take small letters, digits, - and _")
    if name in known_datasets():
        raise UserError(f"there is a dataset {name!r} already: take another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already: name another folder with --out")
    writable_folder(folder)
    module = f"r1vlm_{name.replace('-', '_')}"
    values = {"name": name, "module": module, "variable": name.replace("-", "_").upper()}
    for template, file in {"pyproject": "pyproject.toml", "task": f"{module}.py", "test": f"test_{module}.py"}.items():
        text = files("datagen.testing").joinpath("package", f"{template}.template").read_text(encoding="utf-8")
        write_text(folder / file, Template(text).substitute(values))
    return folder / f"{module}.py"
