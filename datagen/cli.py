"""`r1vlm-data`: build, preview, verify, publish, export and list datasets; begin, check and audit tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer import Argument

from datagen.build_command import DatasetGroup, TaskFile, parse_shares
from datagen.common.command_line import APP, CommandGroup, print_version, run_app
from datagen.common.errors import UserError, strip_password, writable_folder
from datagen.common.files import local_folder, resolve_input
from datagen.export import Tool
from datagen.hub.fetch import download, parse_repo_id
from datagen.hub.flags import CreatePR, Force, Private, Repo, Revision
from datagen.hub.publish import PublishOptions, resolve_target
from datagen.sources.split import Split

Folder = Annotated[str, Argument(metavar="DIR", help="A dataset folder.", show_default=False)]
FolderOrRepo = Annotated[
    str, Argument(metavar="DIR", help="A dataset folder, or USER/NAME on the Hub.", show_default=False)
]


class BuildFirst(CommandGroup):
    """The commands in the order in which they are used: Typer lists a group of commands last."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands."""
        return sorted(super().list_commands(ctx), key=lambda name: name != "build")


app = typer.Typer(**APP, cls=BuildFirst)


@app.callback()
def show_version(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Draw datasets on which a vision-language model learns to reason."""


app.add_typer(
    typer.Typer(**APP),
    cls=DatasetGroup,
    name="build",
    help="Draw a dataset into a folder.",
    options_metavar="",
    subcommand_metavar="DATASET [OPTIONS]",
)


@app.command("import", rich_help_panel="Datasets")
def import_(
    source: Annotated[
        str,
        Argument(metavar="SOURCE", help="A table, a folder of images, or USER/NAME on the Hub.", show_default=False),
    ],
    *,
    question: Annotated[str, typer.Option(metavar="COL|TEXT", help="Column of questions, or the question itself.")],
    answer: Annotated[str, typer.Option(metavar="COL", help="Column of right answers.")],
    judge: Annotated[str, typer.Option(metavar="JUDGE", help="How answers are judged (see r1vlm-data tasks).")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    image: Annotated[
        str | None, typer.Option(metavar="COL", help="Column of images, or of their paths.", show_default="image")
    ] = None,
    images: Annotated[
        str | None, typer.Option(metavar="COL", help="Column of lists of images, where a question shows several.")
    ] = None,
    choices: Annotated[str | None, typer.Option(metavar="COL", help="Column of the choices, a list.")] = None,
    solution: Annotated[
        str | None, typer.Option(metavar="COL", help="Column of reasoning, for a cold start.", show_default="none")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="COL", help="Column of what stays in one split.", show_default="the image")
    ] = None,
    difficulty: Annotated[str | None, typer.Option(metavar="COL", help="Column of numbers to slice by.")] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="COL", help="Column of train, validation and test.", show_default="by a hash"),
    ] = None,
    subset: Annotated[str | None, typer.Option(metavar="NAME", help="Which config of a dataset on the Hub.")] = None,
    splits: Annotated[str, typer.Option(metavar="A/B/C", help="Percent of train, validation and test.")] = "80/10/10",
    tolerance: Annotated[
        str, typer.Option(metavar="N|N%", help="How far off a number, or a point in pixels, may be.")
    ] = "0",
    near: Annotated[
        int, typer.Option(min=-1, max=16, metavar="N", help="Bits in which near-duplicates differ; -1: not looked for.")
    ] = 3,
    max_broken: Annotated[
        float, typer.Option(min=0, max=1, metavar="SHARE", help="Share of rows that may be left out as broken.")
    ] = 0.01,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Leave out of train what another split shows.")
    ] = False,
    license_: Annotated[str, typer.Option("--license", metavar="NAME", help="The images' licence.")] = "unknown",
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Work in N processes.", show_default="one a core")
    ] = None,
) -> None:
    """Make a dataset of images of your own."""
    from datagen.dataset.importing.config import ImportConfig
    from datagen.dataset.importing.run import import_images

    config = ImportConfig(
        source=source,
        judge=judge,
        answer=answer,
        question=question,
        **({} if image is None else {"image": image}),
        images=images,
        choices=choices,
        solution=solution,
        group=group,
        difficulty=difficulty,
        split=split,
        subset=subset,
        tolerance=tolerance,
        shares=parse_shares(splits),
        near=near,
        max_broken=max_broken,
        drop_duplicates=drop_duplicates,
        license=license_,
    )
    done = import_images(config, out, workers=workers)
    print(f"{done.folder}: {', '.join(f'{count} {name}' for name, count in done.counts.items())}")
    if done.broken is not None:
        print(f"  {done.left_out - done.decision.across} of {done.rows} rows can't be used: see {done.broken}")
    if done.changed:
        print(f"  images that were changed: {', '.join(f'{count} {name}' for name, count in done.changed.items())}")
    print(
        f"  {done.decision.duplicates} images are duplicates, {done.decision.near_duplicates} near-duplicates; rows "
        f"left out of a split for that: {done.decision.across}"
    )
    needs = "" if config.solution else "   # without --solution not on a built-in model"
    print(f"  r1vlm-train {config.spec.name} --data {out}{needs}")


@app.command()
def push(
    folder: Folder,
    *,
    task_file: TaskFile = None,
    repo: Repo = None,
    revision: Revision = None,
    create_pr: CreatePR = False,
    private: Private = False,
    force: Force = False,
) -> None:
    """Verify a dataset folder and publish it on the Hugging Face Hub."""
    from datagen.dataset.manifest import find_built_dataset, read_manifest
    from datagen.dataset.publish import publish_dataset

    local = local_folder(folder)
    name = find_built_dataset(local, read_manifest(local)).name
    options = PublishOptions(repo, revision, create_pr, private, force)
    print(publish_dataset(local, resolve_target(options, "dataset", f"r1vlm-{name}")))


@app.command()
def card(folder: Folder, task_file: TaskFile = None) -> None:
    """Write the card of a dataset folder, README.md, anew."""
    from jinja2 import UndefinedError

    from datagen.common.files import write_text
    from datagen.dataset.manifest import MANIFEST, find_built_dataset, read_manifest, write_card
    from datagen.dataset.verify import read_config
    from datagen.hub.cards import CARD

    if parse_repo_id(folder):
        raise UserError(f"{folder} is no folder here, and a card is written into one: build the dataset first")
    path = resolve_input(folder)
    manifest = read_manifest(path)
    if find_built_dataset(path, manifest).draw is None:
        from datagen.dataset.importing.describe import make_card

        write_text(path / CARD, make_card(path, manifest))
        print(strip_password(str(path / CARD)))
        return
    read_config(path, manifest)
    try:
        write_card(path, manifest)
    except (KeyError, TypeError, AttributeError, UndefinedError) as error:
        raise UserError(f"{path / MANIFEST} is not what r1vlm writes now: build the dataset again") from error
    print(strip_password(str(path / CARD)))


@app.command()
def preview(
    folder: FolderOrRepo,
    split: Annotated[Split, typer.Option(help="Split to show.")] = "train",
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Show the first N questions.")] = 12,
    out: Annotated[Path, typer.Option(metavar="FILE", help="PNG file to write.")] = Path("preview.png"),
    task_file: TaskFile = None,
) -> None:
    """Show examples of a dataset as one picture."""
    from datagen.dataset.reader import open_dataset

    built = open_dataset(folder)
    if out.exists() and not out.is_file():
        raise UserError(f"{out} is there already and no file: name a PNG file with --out")
    writable_folder(out.parent)

    from datasets import disable_progress_bars

    from datagen.dataset.preview import contact_sheet, save, show

    disable_progress_bars()
    sheet = contact_sheet(built, split, count)
    save(sheet, out)
    show(sheet)
    print(f"{out}: the first {count} questions of {split}")


@app.command()
def play(
    name: Annotated[
        str,
        Argument(metavar="NAME", help="A dataset or a task, a dataset folder, or USER/NAME on the Hub."),
    ],
    *,
    split: Annotated[Split, typer.Option(help="Split of a folder to play.")] = "test",
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Questions to play at most.")] = 10,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Draw other questions, where no folder is named.")] = 0,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Show these completions of r1vlm-eval beside yours.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for images that the terminal can't show.")] = Path(
        "play"
    ),
    task_file: TaskFile = None,
) -> None:
    """Answer questions yourself, on the terminal, with the tools of the task."""
    import sys

    from datagen.dataset.play import Table, play_all, questions_of, read_recorded

    recorded = {} if against is None else read_recorded(against)
    rows = questions_of(name, split, seed)
    if recorded:
        rows = (row for row in rows if row["id"] in recorded)
    played = play_all(Table(input, out, terminal=sys.stdout.isatty()), rows, recorded, count)
    right = sum(rewards["correctness"] == 1 for rewards in played)
    print(f"{right} of {len(played)} right")


@app.command()
def verify(
    folder: FolderOrRepo,
    every: Annotated[bool, typer.Option("--all", help="Draw every image again, not 200 of them.")] = False,
    task_file: TaskFile = None,
) -> None:
    """Prove what a dataset claims.

    Recompute every hash, check that the splits are disjoint, and draw images again.
    """
    from datagen.dataset.verify import verify as verify_dataset

    path, name = (
        download(folder, "dataset") if parse_repo_id(folder) else (resolve_input(folder), strip_password(folder))
    )
    proof = verify_dataset(path, every=every)
    splits = proof.manifest["splits"]
    print(f"{name}: all is as claimed")
    print(f"  {proof.files} files have the SHA-256 of the manifest, which follows from its recipe and the files")
    print(f"  {proof.redrawn} of {proof.images} images {proof.how}")
    print(f"  {proof.solutions} of their solutions judged: full marks")
    for column, shared in splits["shared_between_splits"].items():
        counts = ", ".join(f"{distinct[column]} {split}" for split, distinct in splits["distinct"].items())
        print(f"  {column}: {counts}; {shared} in two splits")


@app.command()
def export(
    tool: Annotated[Tool, Argument(metavar="TOOL", help="Another project's trainer or evaluator.")],
    folder: FolderOrRepo,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write into.", show_default="the tool's name")
    ] = None,
    task_file: TaskFile = None,
) -> None:
    """Write a dataset as another trainer or evaluator reads it.

    The tool judges answers by our rewards, and the folder says how it is started.
    """
    import importlib

    from datagen.dataset.reader import open_dataset

    built = open_dataset(folder)
    writable = writable_folder(out or Path(tool))

    from datasets import disable_progress_bars

    disable_progress_bars()
    target = importlib.import_module(f"datagen.export.{tool.replace('-', '_')}")
    for line in target.export(built, writable):
        print(line)


@app.command()
def audit(
    name: Annotated[str, Argument(metavar="NAME", help="A dataset or a task (see r1vlm-data tasks).")],
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Attack other questions.")] = 0,
    task_file: TaskFile = None,
) -> None:
    """Try hostile completions on the rewards of a dataset's tasks."""
    from datagen.dataset.config import DatasetConfig
    from datagen.dataset.reward_audit import LONG, SECONDS
    from datagen.dataset.reward_audit import audit as audit_task
    from datagen.dataset.shards import sample_questions
    from datagen.registry import CODE, errors_explained, find_dataset_or_task

    spec = find_dataset_or_task(name)
    if spec.draw is None:
        from datagen.dataset.importing.describe import judge_questions

        questions = {spec.name: judge_questions(spec)}
    else:
        with errors_explained(spec.name):
            questions = sample_questions(DatasetConfig(dataset=spec.name, size=1000, seed=seed), 60)
    failed = False
    for task in [task for task in spec.tasks if task.name == name] or spec.tasks:
        with errors_explained(spec.name):
            results = audit_task(task, questions[task.name])
        width = max(len(result.attack) for result in results)
        print(f"{task.name}: the most that each attack earned on {len(questions[task.name])} questions")
        print(f"  {'':{width}}  {'  '.join(task.rewards)}  slowest")
        for result in results:
            scores = "  ".join(f"{score:{len(reward)}.2f}" for reward, score in result.most.items())
            verdict = f"  BROKE {result.broke}" if result.broke else "  SLOW" if result.seconds > SECONDS else ""
            print(f"  {result.attack:{width}}  {scores}  {1000 * result.seconds:4.1f} ms{verdict}")
            failed |= verdict != ""
    if failed and spec.name in CODE:
        raise UserError("a reward gave way to an attack, or was slow: correct it, and audit it again")
    if failed:
        raise RuntimeError("a reward gave way to an attack")
    print(
        f"No attack earned more than the honest message that it replaces, none raised, and none of up to {LONG:,} "
        f"characters took {1000 * SECONDS:.0f} ms."
    )


@app.command()
def tasks(task_file: TaskFile = None) -> None:
    """List the datasets and their tasks: built in, of installed packages, and of a file."""
    from datagen.dataset.config import DatasetConfig
    from datagen.registry import CODE, DATASETS, load_all
    from datagen.tasks.judges import OWN

    size = DatasetConfig.model_fields["size"].default
    errors = load_all()
    for spec in DATASETS.values():
        options = ", ".join(f"--{option.name}" for option in spec.options) or "none"
        where = f"of {CODE[spec.name]}" if spec.name in CODE else "built in"
        print(f"{spec.name}: {spec.summary} ({where})")
        print(f"  {size} images by default, from {' or '.join(spec.sources)}; options {options}")
        for task in spec.tasks:
            print(f"  {task.name:<8} {task.summary}  rewards: {', '.join(task.rewards)}")
    for spec in OWN.values():
        print(f"{spec.name}: {spec.summary} (r1vlm-data import)")
    for name, error in errors.items():
        print(f"{name}: {error}")


@app.command()
def check(
    name: Annotated[str, Argument(metavar="FILE", help="A task file, FILE.py or FILE.py:VARIABLE, or a dataset.")],
    task_file: TaskFile = None,
) -> None:
    """Check a dataset of your own: what every dataset and its rewards must keep."""
    from datagen.registry import find_dataset
    from datagen.testing import check_dataset

    spec = find_dataset(name)
    findings = check_dataset(spec)
    for finding in findings:
        print(f"- {finding}")
    if findings:
        raise UserError(f"{spec.name} has {len(findings)} finding{'s' * (len(findings) > 1)}: correct what is listed")
    print(f"{spec.name}: all is as it should be")


@app.command()
def new_task(
    name: Annotated[str, Argument(metavar="NAME", help="Name of the dataset: small letters, digits, - and _.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder to write.", show_default="r1vlm-NAME")] = None,
) -> None:
    """Begin a dataset of your own: a package with a task that runs, and its test."""
    from datagen.testing import write_package

    folder = out or Path(f"r1vlm-{name}")
    file = write_package(name, folder)
    print(f"{folder}: a package with the dataset {name}; change {file.name}, and then")
    print(f"  r1vlm-data check {file}")
    print(f"  r1vlm-data build {name} --task-file {file}")
    print(f"  pip install -e {folder}   # from then on  r1vlm-data build {name}")


def main() -> NoReturn:
    """Entry point of `r1vlm-data`."""
    run_app("r1vlm-data", app)


if __name__ == "__main__":
    main()
