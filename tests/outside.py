"""Datasets that are not built in: in a file, or in a package that is installed for as long as a test wants."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datagen.registry import CODE, DATASETS, TASKS


@contextmanager
def registry_restored() -> Iterator[None]:
    """Behind the block only those datasets are loaded that were before, as in a new process."""
    tables: tuple[dict[str, object], ...] = (DATASETS, TASKS, CODE)  # type: ignore[assignment]
    before, modules = [dict(table) for table in tables], set(sys.modules)
    try:
        yield
    finally:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)
        for name in set(sys.modules) - modules:
            if name.startswith("r1vlm_"):
                del sys.modules[name]


def install(folder: Path, version: str = "0.1.0") -> None:
    """Make a package's folder one that is found as installed where it stands on `sys.path`, as pip's -e does."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project["entry-points"]["r1vlm.datasets"]
    info = folder / f"{project['name'].replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n")
    lines = ["[r1vlm.datasets]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
