"""What `r1vlm-eval play` does: check everything, load the players, serve the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datagen.common.errors import UserError, require_extra
from datagen.registry import add_file
from evaluation.model_source import ModelSource, open_model
from evaluation.play.page import Table, serve
from evaluation.play.questions import question_source


@dataclass(frozen=True)
class PlayConfig:
    """What is played with. Each field is the flag of `r1vlm-eval play` of that name."""

    checkpoint: str
    baseline: str | None = None
    data: str | None = None
    task_file: Path | None = None
    max_new_tokens: int = 512
    port: int | None = None


def play(config: PlayConfig) -> None:
    """Serve the page until the command is interrupted.

    Raises:
        UserError: for a mistake in the configuration, before anything is loaded; where a model can't be loaded.
    """
    serve(make_table(config), config.port)


def make_table(config: PlayConfig) -> Table:
    """The questions and the loaded players.

    Raises:
        UserError: as `play`.
    """
    if config.task_file is not None:
        add_file(config.task_file)
    names = {"baseline": config.baseline, "checkpoint": config.checkpoint}
    models = {side: _checkpoint(name) for side, name in names.items() if name is not None}
    source = question_source(config.data, models["checkpoint"])
    require_extra("eval,demo", "gradio", "torch", "torchvision", "transformers")
    if any(model.base for model in models.values()):
        require_extra("train", "peft")

    from evaluation.play.player import load_player

    turns = max(task.turns for task in source.spec.tasks)
    players = []
    for side, model in models.items():
        print(f"{model.label}: loading, and measuring which heads look up", flush=True)
        player = load_player(model, source.config, turns, config.max_new_tokens)
        print(f"  {player.heads}", flush=True)
        players.append((side, player))
    return Table(source, players)


def _checkpoint(name: str) -> ModelSource:
    model = open_model(name)
    if not model.is_model:
        raise UserError(f"{name} are completions, which answer nothing new: name a checkpoint folder")
    return model
