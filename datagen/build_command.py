"""`r1vlm-data build`: a command a dataset, each with the options of its own."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from datagen.common.command_line import APP, CommandGroup
from datagen.common.errors import UserError, strip_password, suggest
from datagen.common.files import is_remote, parse_path, resolve_output
from datagen.common.options import Option, as_text
from datagen.hub.flags import PANEL as PUBLISHING
from datagen.hub.flags import CreatePR, Force, Private, Repo, Revision, publish_options
from datagen.hub.publish import PublishOptions, resolve_target

if TYPE_CHECKING:
    from datagen.task import DatasetSpec

DRAWING = "Drawing"


def add_task_file(path: Path | None) -> Path | None:
    """The callback of `--task-file`: from here on its datasets are found by name.

    Raises:
        UserError: where the file can't be loaded, or a name in it is taken.
    """
    if path is not None:
        from datagen.registry import add_file

        add_file(path)
    return path


TaskFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.py", callback=add_task_file, is_eager=True, help="Know the datasets of this file. It is run."
    ),
]


class DatasetCommand(TyperCommand):
    """The command that builds one dataset; an option that only another dataset has gets a sentence of its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as Typer does.

        Raises:
            UserError: for an option of another dataset.
        """
        from datagen.registry import DATASETS, find_dataset

        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            name = str(getattr(error, "option_name", "")).removeprefix("--")
            if any(option.name == name for spec in DATASETS.values() for option in spec.options):
                own = [option.name for option in find_dataset(str(self.name)).options]
                raise UserError(f"{self.name} has no option {name!r}: {suggest(name, own)}") from error
            raise


class DatasetGroup(CommandGroup):
    """`r1vlm-data build`: a command a dataset. They are made when they are needed: it takes numpy to load them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as Typer does, with the datasets of a task file: which options a dataset has is in there."""
        for at, word in enumerate(args):
            flag, equals, value = word.partition("=")
            if flag == "--task-file" and (equals or at + 1 < len(args)):
                add_task_file(Path(value if equals else args[at + 1]))
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the datasets."""
        from datagen.registry import known_datasets
        from datagen.tasks.judges import OWN

        return [name for name in known_datasets() if name not in OWN]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command that builds the dataset of that name, as the list of commands shows it; None for an unknown one.

        A package is not loaded to be listed.

        Raises:
            UserError: where one of its options has a name that every dataset's options have.
        """
        from datagen.registry import DATASETS
        from datagen.registry.code import installed, package_of

        if cmd_name in DATASETS:
            return make_build_command(DATASETS[cmd_name])
        points = installed().get(cmd_name)
        return points and TyperCommand(cmd_name, help=f"Of {package_of(points[0])}.", rich_help_panel="Datasets")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is to run: that of a built-in dataset, of a package's, or of FILE.py:VARIABLE.

        Raises:
            UserError: where there is no such dataset, or its code can't be loaded.
        """
        from datagen.registry import find_dataset

        if not args or args[0].startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        command = make_build_command(find_dataset(args[0]))
        return command.name, command, args[1:]


def make_build_command(spec: DatasetSpec) -> Any:
    """`r1vlm-data build NAME`, which has the options of that dataset and no others.

    Raises:
        UserError: where one of its options has a name that every dataset's options have.
    """

    def command(**values: Any) -> None:
        options = {option.name: values.pop(option.name) for option in spec.options}
        build(spec.name, options, **values)

    signature = inspect.signature(build, eval_str=True).parameters
    for option in spec.options:
        if option.name in signature:
            raise UserError(f"{spec.name} has an option --{option.name}, as every dataset has: rename it")
    shared = signature.values()
    own = [_parameter(option, f"Options of {spec.name}") for option in spec.options]
    source = Option("source", spec.sources[0], str, "|".join(spec.sources), "What to draw from.")
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*own, _parameter(source, DRAWING), *(one for one in shared if one.name not in ("name", "options", "source"))]
    )
    single = typer.Typer(**APP | {"add_completion": False})
    summary = f"{spec.summary[:1].upper()}{spec.summary[1:]}."
    single.command(spec.name, cls=DatasetCommand, help=summary, rich_help_panel="Datasets")(command)
    return typer.main.get_command(single)


def _parameter(option: Option, panel: str) -> inspect.Parameter:
    """The parameter of a command function that takes an option as text."""
    flag = typer.Option(f"--{option.name}", metavar=option.metavar, help=option.help, rich_help_panel=panel)
    default = as_text(option.default)
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[str, flag]
    )


def build(
    name: str,
    options: dict[str, str],
    *,
    source: str,
    size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Draw N images, in all splits together.", rich_help_panel=DRAWING)
    ] = 5000,
    seed: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Draw other images: two seeds share none.", rich_help_panel=DRAWING),
    ] = 0,
    splits: Annotated[
        str, typer.Option(metavar="A/B/C", help="Percent of train, validation and test.", rich_help_panel=DRAWING)
    ] = "80/10/10",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Draw in N processes.", show_default="one a core", rich_help_panel=DRAWING
        ),
    ] = None,
    engine: Annotated[
        Literal["processes", "ray"],
        typer.Option(help="Draw on this machine, or on a Ray cluster.", rich_help_panel=DRAWING),
    ] = "processes",
    ray_address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address of a running Ray cluster.", rich_help_panel=DRAWING)
    ] = "auto",
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder to write, or an fsspec address such as s3://bucket/name.",
            show_default="data/NAME",
        ),
    ] = None,
    task_file: TaskFile = None,
    push: Annotated[
        bool, typer.Option("--push", help="Publish the dataset when it is verified.", rich_help_panel=PUBLISHING)
    ] = False,
    repo: Repo = None,
    revision: Revision = None,
    create_pr: CreatePR = False,
    private: Private = False,
    force: Force = False,
) -> None:
    """Draw a dataset into a folder.

    Raises:
        UserError: where the options contradict each other, the folder holds something else, or nobody is logged in to
            publish.
    """
    from datagen.dataset.build import build as build_dataset
    from datagen.dataset.build import is_built
    from datagen.dataset.config import DatasetConfig
    from datagen.dataset.executors import ray_executor
    from datagen.dataset.publish import publish_dataset

    if workers and engine == "ray":
        raise UserError("--workers is for this machine alone, a Ray cluster uses all that it has: leave it out")
    publish = publish_options(push, "--push", PublishOptions(repo, revision, create_pr, private, force))
    shares = parse_shares(splits)
    config = DatasetConfig(dataset=name, size=size, seed=seed, shares=shares, source=source, options=options)
    if publish and is_remote(parse_path(out or "")):
        raise UserError("only a folder on this machine can be published: leave out --push, or name one with --out")
    target = resolve_target(publish, "dataset", f"r1vlm-{name}") if publish else None
    folder = resolve_output(out or f"data/{name}")
    already = is_built(folder, config)
    executor = ray_executor(ray_address) if engine == "ray" else None
    build_dataset(config, folder, workers=workers, executor=executor)
    counts = ", ".join(f"{count} {split}" for split, count in config.counts().items())
    print(f"{strip_password(str(folder))}: {'already there' if already else 'drawn'}, {counts} images", flush=True)
    if target:
        print(publish_dataset(folder, target))


def parse_shares(text: str) -> tuple[int, int, int]:
    """The percentages of `TRAIN/VALIDATION/TEST`.

    Raises:
        UserError: where the text has another form.
    """
    match = re.fullmatch(r"(\d{1,3})/(\d{1,3})/(\d{1,3})", text)
    if match is None:
        raise UserError(f"--splits {text} is not three percentages such as 80/10/10")
    return int(match[1]), int(match[2]), int(match[3])
