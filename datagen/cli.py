"""`r1vlm-data`: build, preview and list datasets."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from datagen.errors import Parser, UserError, run, writable_folder

SOURCES = ("mnist-5k", "mnist")
SIZE = 5000  # images, unless --size says otherwise


def digit_range(text: str) -> tuple[int, int]:
    """`(low, high)` of `LOW..HIGH`, or of one number; 1 to 3 digits fit on a canvas."""
    match = re.fullmatch(r"([1-3])(?:\.\.([1-3]))?", text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if low > high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of digits from 1 to 3, or a range such as 1..3")
    return low, high


def shares(text: str) -> tuple[int, int, int]:
    """The percentages of `TRAIN/VALIDATION/TEST`."""
    match = re.fullmatch(r"(\d{1,3})/(\d{1,3})/(\d{1,3})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not three percentages such as 80/10/10")
    return int(match[1]), int(match[2]), int(match[3])


def at_least(least: int) -> Callable[[str], int]:
    """An argparse type: an integer that is not below `least`."""

    def integer(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None
        if number < least:
            raise argparse.ArgumentTypeError(f"{number} is below {least}, the least there can be")
        return number

    return integer


def make_parser() -> Parser:
    """The command's arguments."""
    parser = Parser(prog="r1vlm-data", description="Draw datasets on which a vision-language model learns to reason.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    one = commands.add_parser("build", help="draw a dataset", description="Draw a dataset into a folder.")
    one.set_defaults(main=build)
    one.add_argument("name", metavar="NAME", help="the dataset (see r1vlm-data tasks)")
    one.add_argument("--size", type=at_least(1), default=SIZE, help=f"images in all splits together [{SIZE}]")
    one.add_argument("--seed", type=at_least(0), default=0, help="another seed shares no image with this one [0]")
    one.add_argument("--splits", type=shares, default=(80, 10, 10), help="percent train/validation/test [80/10/10]")
    one.add_argument("--digits", type=digit_range, help="digits in an image [1..3]")
    one.add_argument("--source", choices=SOURCES, default="mnist-5k", help="handwriting, built in or downloaded")
    one.add_argument("--workers", type=at_least(1), default=os.cpu_count(), help="processes [one a core]")
    one.add_argument("--out", type=Path, help="the folder to write [data/NAME]")

    one = commands.add_parser("preview", help="show examples of a dataset", description="Show examples as one picture.")
    one.set_defaults(main=preview)
    one.add_argument("dir", metavar="DIR", help="a dataset folder")
    one.add_argument("--split", default="train", help="train, validation or test [train]")
    one.add_argument("--count", type=at_least(1), default=12, help="questions to show [12]")
    one.add_argument("--out", type=Path, default=Path("preview.png"), help="the PNG to write [preview.png]")

    one = commands.add_parser("tasks", help="list what can be built", description="List the datasets and their tasks.")
    one.set_defaults(main=tasks)
    return parser


def build(arguments: argparse.Namespace) -> None:
    """`r1vlm-data build`."""
    from datagen.tasks import find_dataset

    spec = find_dataset(arguments.name)
    options = {name: value for name in spec.options if (value := getattr(arguments, name, None)) is not None}
    out = writable_folder(arguments.out or Path("data") / spec.name)

    from datagen.build import build as write
    from datagen.build import make_recipe

    recipe = make_recipe(
        spec.name,
        size=arguments.size,
        seed=arguments.seed,
        shares=arguments.splits,
        source=arguments.source,
        options=options,
    )
    drawn = write(recipe, out, arguments.workers)
    counts = ", ".join(f"{count} {split}" for split, count in recipe.counts().items())
    print(f"{out}: {'drawn' if drawn else 'already there'}, {counts} images, {len(spec.tasks)} questions each")


def preview(arguments: argparse.Namespace) -> None:
    """`r1vlm-data preview`."""
    from datagen.dataset import check_split, open_dataset

    built = open_dataset(arguments.dir)
    split = check_split(arguments.split)
    if arguments.out.exists() and not arguments.out.is_file():
        raise UserError(f"{arguments.out} is there already and no file: name a PNG file with --out")
    writable_folder(arguments.out.parent)

    from datagen.preview import contact_sheet, save, show

    sheet = contact_sheet(built, split, arguments.count)
    save(sheet, arguments.out)
    show(sheet)
    print(f"{arguments.out}: the first {arguments.count} questions of {split}")


def tasks(arguments: argparse.Namespace) -> None:
    """`r1vlm-data tasks`."""
    from datagen.tasks import DATASETS

    for spec in DATASETS.values():
        print(f"{spec.name}: {spec.summary}; {SIZE} images and {SIZE * len(spec.tasks)} questions by default")
        for task in spec.tasks:
            print(f"  {task.name:<8} {task.question}  rewards: {', '.join(task.rewards)}")


def main() -> NoReturn:
    """Entry point of `r1vlm-data`."""

    def command() -> None:
        arguments = make_parser().parse_args()
        arguments.main(arguments)

    run("r1vlm-data", command)


if __name__ == "__main__":
    main()
