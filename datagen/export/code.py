"""The code of a dataset that is a file of the user's: it goes along with what is exported, and is loaded from there."""

from __future__ import annotations

from pathlib import Path

from datagen.common.files import write_bytes
from datagen.registry import CODE, add_file

NAME = "r1vlm_task_{}.py"


def write_code(dataset: str, out: Path) -> None:
    """Write the file that defines a dataset into the folder `out`; nothing where r1vlm or a package has it."""
    code = CODE.get(dataset)
    if code is not None and code.package is None:
        write_bytes(out / NAME.format(dataset), code.source)


def load_code(exported: str) -> None:
    """Know the datasets whose files were written beside the file `exported`, which calls this.

    Raises:
        UserError: where one can't be loaded, or a name in it is taken.
    """
    for path in sorted(Path(exported).parent.glob(NAME.format("*"))):
        add_file(path)
