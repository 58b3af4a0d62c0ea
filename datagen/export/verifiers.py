"""A dataset as an environment of verifiers 0.4: a package that asks its questions and gives our rewards.

Nothing here imports verifiers; the package does, which is made of the templates in `verifiers_package`.
"""

from __future__ import annotations

import inspect
import shlex
import tomllib
from importlib.resources import files
from pathlib import Path
from string import Template

from datagen.common.errors import UserError
from datagen.common.files import write_text
from datagen.dataset.reader import BuiltDataset, most_images
from datagen.export import verifiers_utils
from datagen.export.code import write_code
from datagen.registry import CODE
from datagen.sources.split import SPLITS

UTILS = "r1vlm_utils"
VERSIONS = "0.4.*"  # of verifiers: another minor version may have another interface
LIMIT = """
A question is shown {images} images at most: start vLLM's server with `--limit-mm-per-prompt '{{"image": {images}}}'`.
"""


def export(built: BuiltDataset, out: Path) -> list[str]:
    """Write the package of a dataset into the folder `out`; returns how it is used.

    Raises:
        UserError: where another package is in the folder.
    """
    project = write_package(built, out)
    return [
        f"{out}: {project}, a package for verifiers {VERSIONS}",
        f"  pip install {shlex.quote(str(out))}",
        f"  vf-eval {project} --model MODEL --client.base-url ADDRESS --no-push",
        f"  {out / 'README.md'} has the whole command; without --no-push verifiers uploads what was answered",
    ]


def write_package(built: BuiltDataset, out: Path) -> str:
    """Write the package of a dataset into a folder; returns its name, which `vf-eval` takes.

    Raises:
        UserError: where another package is in the folder.
    """
    dataset = built.spec.name
    project = f"r1vlm-{dataset}-verifiers"
    check_folder(out, project)
    module = project.replace("-", "_")
    values = {
        "dataset": dataset,
        "project": project,
        "module": module,
        "data": ascii(built.name),
        "dependencies": ", ".join(f'"{one}"' for one in dependencies(dataset)),
        "versions": VERSIONS,
        "limit": image_limit(built),
    }
    names = {"pyproject": "pyproject.toml", "readme": "README.md", "module": f"{module}/__init__.py"}
    for template, name in names.items():
        text = files("datagen.export").joinpath("verifiers_package", f"{template}.template").read_text(encoding="utf-8")
        write_text(out / name, Template(text).substitute(values))
    write_text(out / module / f"{UTILS}.py", inspect.getsource(verifiers_utils))
    write_code(dataset, out / module)
    return project


def check_folder(out: Path, project: str) -> None:
    """Raise a `UserError` where a folder has another package than `project`, which would be written over."""
    there = out / "pyproject.toml"
    if not there.exists():
        return
    try:
        name = tomllib.loads(there.read_text(encoding="utf-8"))["project"]["name"]
    except (OSError, ValueError, LookupError, TypeError):
        name = None
    if name != project:
        raise UserError(f"{out} has another package in it: name another folder with --out")


def dependencies(dataset: str) -> list[str]:
    """The packages that an exported one needs: also the one that defines the dataset, where one does."""
    code = CODE.get(dataset)
    own = [f"{code.package}=={code.version}"] if code and code.package else []
    return ["r1vlm", f"verifiers=={VERSIONS}", *own]


def image_limit(built: BuiltDataset) -> str:
    """What a server of the model has to be told, where a question is shown several images."""
    several = built.spec.several_images
    shown = max(most_images(built.questions(split)) for split in SPLITS) if several else 1
    images = shown + max(task.turns for task in built.spec.tasks) - 1
    return LIMIT.format(images=images) if images > 1 else ""
