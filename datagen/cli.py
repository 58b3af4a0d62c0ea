"""`r1vlm-data`: build, preview, verify, publish, export and list datasets, and audit their rewards."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from datagen.common.errors import Parser, UserError, run_command, strip_password, writable_folder
from datagen.common.files import is_remote, local_folder, parse_path
from datagen.common.options import integer
from datagen.hub.fetch import download, parse_repo_id
from datagen.hub.publish import Published, PublishTarget, RepoIdentity, add_options, refuse_unused, resolve_target
from datagen.hub.publish import publish as publish_files

if TYPE_CHECKING:
    from datagen.task import DatasetSpec

WHERE = "a dataset folder, or USER/NAME on the Hub"
SIZE = 5000  # images, unless --size says otherwise


def shares(text: str) -> tuple[int, int, int]:
    """The percentages of `TRAIN/VALIDATION/TEST`."""
    match = re.fullmatch(r"(\d{1,3})/(\d{1,3})/(\d{1,3})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not three percentages such as 80/10/10")
    return int(match[1]), int(match[2]), int(match[3])


def make_parser(*, building: bool = True) -> Parser:
    """The command's arguments; the datasets' own options among them only where they are needed (`building`).

    To know those takes the datasets, and these numpy: `r1vlm-data --help` answers at once without them.
    """
    parser = Parser(prog="r1vlm-data", description="Draw datasets on which a vision-language model learns to reason.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    one = commands.add_parser("build", help="draw a dataset", description="Draw a dataset into a folder.")
    one.set_defaults(main=build)
    one.add_argument("name", metavar="NAME", help="the dataset (see r1vlm-data tasks)")
    one.add_argument("--size", type=integer(1), default=SIZE, help=f"images in all splits together [{SIZE}]")
    one.add_argument("--seed", type=integer(0), default=0, help="another seed shares no image with this one [0]")
    one.add_argument("--splits", type=shares, default=(80, 10, 10), help="percent train/validation/test [80/10/10]")
    one.add_argument("--source", help="what to draw from (see r1vlm-data tasks) [the first]")
    one.add_argument("--workers", type=integer(1), help="processes [one a core that is ours]")
    one.add_argument("--engine", choices=("processes", "ray"), default="processes", help="what draws [processes]")
    one.add_argument("--ray-address", default="auto", help="of a Ray cluster that is running [auto]")
    one.add_argument("--out", help="the folder to write, or an fsspec address such as s3://bucket/name [data/NAME]")
    hub = one.add_argument_group("publishing on the Hugging Face Hub")
    hub.add_argument("--push", action="store_true", help="publish it when it is drawn and verified")
    add_options(hub)
    own = one.add_argument_group("options of one or several datasets")
    for name, text in option_helps().items() if building else ():
        own.add_argument(f"--{name}", help=text)

    one = commands.add_parser(
        "push", help="publish a dataset", description="Verify a dataset folder and publish it on the Hugging Face Hub."
    )
    one.set_defaults(main=push)
    one.add_argument("dir", metavar="DIR", help="a dataset folder")
    add_options(one.add_argument_group("publishing"))

    one = commands.add_parser(
        "card", help="write a dataset's card", description="Write README.md, the card of a dataset folder, anew."
    )
    one.set_defaults(main=card)
    one.add_argument("dir", metavar="DIR", help="a dataset folder")

    one = commands.add_parser("preview", help="show examples of a dataset", description="Show examples as one picture.")
    one.set_defaults(main=preview)
    one.add_argument("dir", metavar="DIR", help=WHERE)
    one.add_argument("--split", default="train", help="train, validation or test [train]")
    one.add_argument("--count", type=integer(1), default=12, help="questions to show [12]")
    one.add_argument("--out", type=Path, default=Path("preview.png"), help="the PNG to write [preview.png]")

    one = commands.add_parser(
        "verify",
        help="prove what a dataset claims",
        description="Recompute every hash, check that the splits are disjoint, and draw images again.",
    )
    one.set_defaults(main=verify)
    one.add_argument("dir", metavar="DIR", help=WHERE)
    one.add_argument("--all", action="store_true", help="draw every image again, not 200 of them")

    one = commands.add_parser(
        "export",
        help="write tasks for another evaluator",
        description="Write the test split as tasks that lmms-eval loads with --include_path, judged by our rewards.",
    )
    one.set_defaults(main=export)
    one.add_argument("tool", metavar="TOOL", choices=("lmms-eval",), help="lmms-eval")
    one.add_argument("dir", metavar="DIR", help=WHERE)
    one.add_argument("--out", type=Path, default=Path("lmms-eval"), help="the folder to write into [lmms-eval]")

    one = commands.add_parser(
        "audit", help="attack the rewards", description="Try hostile completions on the rewards of a dataset's tasks."
    )
    one.set_defaults(main=audit)
    one.add_argument("name", metavar="NAME", help="a dataset or a task (see r1vlm-data tasks)")
    one.add_argument("--seed", type=integer(0), default=0, help="of the questions that are attacked [0]")

    one = commands.add_parser("tasks", help="list what can be built", description="List the datasets and their tasks.")
    one.set_defaults(main=tasks)
    return parser


def option_helps() -> dict[str, str]:
    """The help of every option that some dataset has, by its name: whose it is, and what it is by default."""
    from datagen.common.options import as_text
    from datagen.registry import DATASETS

    helps: dict[str, str] = {}
    for spec in DATASETS.values():
        for option in spec.options:
            own = f"{spec.name} [{as_text(option.default)}]"
            helps[option.name] = f"{helps[option.name]}, {own}" if option.name in helps else f"{option.help}; {own}"
    return helps


def read_options(spec: DatasetSpec, arguments: argparse.Namespace) -> dict[str, Any]:
    """The dataset's options among the arguments, read; `make_recipe` refuses those of others.

    Raises:
        UserError: for a value that can't be.
    """
    parsers = {option.name: option.parse for option in spec.options}
    options: dict[str, Any] = {}
    for name in option_helps():
        text = getattr(arguments, name)
        try:
            if text is not None:
                options[name] = parsers.get(name, str)(text)
        except argparse.ArgumentTypeError as error:
            raise UserError(f"--{name}: {error}") from error
    return options


def folder_read(text: str) -> Path:
    """The folder or object store that `text` names, which can be read.

    Raises:
        UserError: where a store refuses.
    """
    path = parse_path(text)
    if is_remote(path):
        try:
            path.exists()
        except Exception as error:  # each store raises its own
            raise UserError(f"can't read {text}: {said(error)}") from error
    return path


def said(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def place(text: str) -> Path:
    """The folder or object store that `text` names, checked.

    Raises:
        UserError: where it can't be written to.
    """
    path = parse_path(text)
    if not is_remote(path):
        if os.path.ismount(path):
            raise UserError(f"{path} is a mount point, which can't be renamed: name a folder in it with --out")
        return writable_folder(path)
    try:
        probe = path / ".probe"
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except Exception as error:  # each store raises its own
        raise UserError(f"can't write to {text}: {said(error)}") from error
    return path


def build(arguments: argparse.Namespace) -> None:
    """`r1vlm-data build`."""
    from datagen.registry import find_dataset

    spec = find_dataset(arguments.name)
    options = read_options(spec, arguments)
    if arguments.workers and arguments.engine == "ray":
        raise UserError("--workers is for this machine alone, a Ray cluster uses all that it has: leave it out")
    if not arguments.push:
        refuse_unused(arguments, "--push")
    to = where_to_push(arguments, spec.name) if arguments.push else None
    out = place(arguments.out or f"data/{spec.name}")

    from datagen.dataset.build import build as write
    from datagen.dataset.config import make_config
    from datagen.dataset.executors import process_executor, ray_executor

    recipe = make_config(
        spec.name,
        size=arguments.size,
        seed=arguments.seed,
        shares=arguments.splits,
        source=arguments.source,
        options=options,
    )
    engine = (
        ray_executor(arguments.ray_address)
        if arguments.engine == "ray"
        else process_executor(arguments.workers or cores())
    )
    drawn = write(recipe, out, engine)
    counts = ", ".join(f"{count} {split}" for split, count in recipe.counts().items())
    print(f"{strip_password(str(out))}: {'drawn' if drawn else 'already there'}, {counts} images", flush=True)
    if to is not None:
        print(publish_folder(out, to))


def cores() -> int:
    """The cores that are ours: a container or Slurm may have given a few of many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def where_to_push(arguments: argparse.Namespace, name: str) -> PublishTarget:
    """The repository that the options name, or the one named after the dataset."""
    if is_remote(parse_path(getattr(arguments, "out", None) or "")):
        raise UserError("only a folder on this machine can be published: leave out --push, or name one with --out")
    return resolve_target(arguments, "dataset", f"r1vlm-{name}")


def publish_folder(folder: Path, to: PublishTarget) -> Published:
    """Verify a dataset folder, and publish it.

    Raises:
        UserError: where it is not what it claims to be, or the Hub refuses.
    """
    from datagen.dataset.manifest import MANIFEST
    from datagen.dataset.verify import verify as prove
    from datagen.hub.cards import CARD

    manifest = prove(folder).manifest
    names = [CARD, MANIFEST, *manifest["files"]]
    return publish_files(
        to, {name: folder / name for name in names}, RepoIdentity(MANIFEST, "recipe", manifest["recipe"])
    )


def push(arguments: argparse.Namespace) -> None:
    """`r1vlm-data push`."""
    from datagen.dataset.manifest import read_manifest

    folder = local_folder(arguments.dir)
    to = where_to_push(arguments, str(read_manifest(folder)["recipe"].get("dataset")))
    print(publish_folder(folder, to))


def card(arguments: argparse.Namespace) -> None:
    """`r1vlm-data card`."""
    from datagen.dataset.manifest import MANIFEST, read_manifest, write_card
    from datagen.dataset.verify import recipe_of
    from datagen.hub.cards import CARD

    if parse_repo_id(arguments.dir):
        raise UserError(f"{arguments.dir} is no folder here, and a card is written into one: build the dataset first")
    folder = folder_read(arguments.dir)
    manifest = read_manifest(folder)
    recipe_of(folder, manifest)
    try:
        write_card(folder, manifest)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / MANIFEST} is not what r1vlm writes now: build the dataset again") from error
    print(strip_password(str(folder / CARD)))


def preview(arguments: argparse.Namespace) -> None:
    """`r1vlm-data preview`."""
    from datagen.dataset.reader import check_split, open_dataset

    built = open_dataset(arguments.dir)
    split = check_split(arguments.split)
    if arguments.out.exists() and not arguments.out.is_file():
        raise UserError(f"{arguments.out} is there already and no file: name a PNG file with --out")
    writable_folder(arguments.out.parent)

    from datasets import disable_progress_bars

    from datagen.dataset.preview import contact_sheet, save, show

    disable_progress_bars()
    sheet = contact_sheet(built, split, arguments.count)
    save(sheet, arguments.out)
    show(sheet)
    print(f"{arguments.out}: the first {arguments.count} questions of {split}")


def verify(arguments: argparse.Namespace) -> None:
    """`r1vlm-data verify`."""
    from datagen.dataset.verify import verify as prove

    folder, where = (
        download(arguments.dir, "dataset")
        if parse_repo_id(arguments.dir)
        else (folder_read(arguments.dir), strip_password(arguments.dir))
    )
    proof = prove(folder, every=arguments.all)
    splits = proof.manifest["splits"]
    print(f"{where}: all is as claimed")
    print(f"  {proof.files} files have the SHA-256 of the manifest, which follows from its recipe and the files")
    print(f"  {proof.redrawn} of {proof.images} images drawn again: the same bytes, in both configs")
    print(f"  {proof.solutions} of their solutions judged: full marks")
    for what, shared in splits["shared_between_splits"].items():
        counts = ", ".join(f"{distinct[what]} {split}" for split, distinct in splits["distinct"].items())
        print(f"  {what}: {counts}; {shared} in two splits")


def export(arguments: argparse.Namespace) -> None:
    """`r1vlm-data export`."""
    from datagen.dataset.reader import open_dataset

    built = open_dataset(arguments.dir)
    out = writable_folder(arguments.out)

    from datasets import disable_progress_bars

    from datagen.export.lmms_eval import export_lmms_eval

    disable_progress_bars()
    group, names = export_lmms_eval(built, out)
    print(f"{arguments.out}: {group}, the group of {', '.join(names)}")
    print(f"  lmms-eval --include_path {arguments.out} --tasks {group} \\")
    print("    --model qwen2_5_vl --model_args pretrained=CHECKPOINT,min_pixels=LOW,max_pixels=HIGH")
    print("  LOW and HIGH: shortest_edge and longest_edge in the checkpoint's processor_config.json; without them")
    print("  lmms-eval enlarges small images, and asks the model something else than it was trained on")


def audit(arguments: argparse.Namespace) -> None:
    """`r1vlm-data audit`."""
    from datagen.dataset.config import make_config
    from datagen.dataset.shards import sample_questions
    from datagen.registry import find_dataset_or_task
    from datagen.reward_audit import LONG, SECONDS
    from datagen.reward_audit import audit as attack

    spec = find_dataset_or_task(arguments.name)
    recipe = make_config(spec.name, size=1000, seed=arguments.seed)
    asked = sample_questions(recipe, 60)
    failed = False
    for task in spec.tasks:
        if arguments.name not in (spec.name, task.name):
            continue
        findings = attack(task, asked[task.name])
        width = max(len(finding.attack) for finding in findings)
        print(f"{task.name}: the most that each attack earned on {len(asked[task.name])} questions")
        print(f"  {'':{width}}  {'  '.join(task.rewards)}  slowest")
        for finding in findings:
            scores = "  ".join(f"{score:{len(name)}.2f}" for name, score in finding.most.items())
            verdict = f"  BROKE {finding.broke}" if finding.broke else "  SLOW" if finding.seconds > SECONDS else ""
            print(f"  {finding.attack:{width}}  {scores}  {1000 * finding.seconds:4.1f} ms{verdict}")
            failed |= verdict != ""
    if failed:
        raise RuntimeError("a reward gave way to an attack")
    print(
        f"No attack earned more than the honest message that it replaces, none raised, and none of up to {LONG:,} "
        f"characters took {1000 * SECONDS:.0f} ms."
    )


def tasks(_: argparse.Namespace) -> None:
    """`r1vlm-data tasks`."""
    from datagen.registry import DATASETS

    for spec in DATASETS.values():
        options = ", ".join(f"--{option.name}" for option in spec.options)
        print(f"{spec.name}: {spec.summary}")
        print(f"  {SIZE} images by default, from {' or '.join(spec.sources)}; options {options}")
        for task in spec.tasks:
            print(f"  {task.name:<8} {task.summary}  rewards: {', '.join(task.rewards)}")


def main() -> NoReturn:
    """Entry point of `r1vlm-data`."""

    def command() -> None:
        arguments = make_parser(building="build" in sys.argv).parse_args()
        arguments.main(arguments)

    run_command("r1vlm-data", command)


if __name__ == "__main__":
    main()
