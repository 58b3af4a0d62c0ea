"""A person in place of a model: questions on the terminal, with whatever comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from datagen import r1_format
from datagen.common.errors import UserError, writable_folder
from datagen.common.formatting import visible
from datagen.common.untrusted import check_shape, parse_json
from datagen.dataset.preview import save, show
from datagen.environment import Environment, replay
from datagen.hub.fetch import parse_repo_id
from datagen.interaction import Episode, Observation, decode_image, format_call, question_images
from datagen.registry import find_task
from datagen.sources.split import Split
from datagen.task import Task, score

ANSWER = "answer "
WIDTH = 40  # characters of a terminal
DRAWN = 100  # images


class Turn(BaseModel):
    """A message before the last, so far as it is read."""

    completion: str


class Recorded(BaseModel):
    """A line of completions, so far as it is read."""

    id: str
    completion: str
    turns: list[Turn] = []


def read_recorded(path: Path) -> dict[str, list[str]]:
    """The full messages of each episode in a file of completions, by the question's id; of samples the first.

    Raises:
        UserError: where it can't be read, or is no such file.
    """
    advice = "name a completions.jsonl that r1vlm-eval wrote"
    episodes: dict[str, list[str]] = {}
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            read = check_shape(parse_json(line), Recorded, f"{path}, line {number}, has no episode", advice)
            episodes.setdefault(read.id, [*(turn.completion for turn in read.turns), read.completion])
    except (OSError, ValueError) as error:
        raise UserError(f"can't read {path} ({error}): {advice}") from error
    return episodes


def questions_of(name: str, split: Split, seed: int) -> Iterator[Mapping[str, Any]]:
    """The questions of a split of a dataset folder; of a dataset or a task by its name, some that are drawn.

    Raises:
        UserError: where there is no dataset of that name.
    """
    from datagen.dataset.config import DatasetConfig
    from datagen.dataset.reader import open_dataset
    from datagen.dataset.shards import sample_questions
    from datagen.registry import find_dataset_or_task

    if parse_repo_id(name) or Path(name).is_dir():
        return iter(open_dataset(name).questions(split))
    spec = find_dataset_or_task(name)
    if spec.draw is None:
        raise UserError(f"{name} has images of your own: name the folder of the dataset")
    drawn = sample_questions(DatasetConfig(dataset=spec.name, seed=seed), DRAWN)
    return (row for task, rows in drawn.items() if name in (task, spec.name) for row in rows)


class Table:
    """Where a person plays: what is said and shown goes to the terminal; without one, images go into a folder."""

    def __init__(self, ask: Callable[[], str], images: Path, *, terminal: bool) -> None:
        self.ask, self.images, self.terminal = ask, images, terminal
        self.shown = 0

    def play(self, row: Mapping[str, Any], recorded: Sequence[str] | None = None) -> dict[str, float]:
        """Play the episode of a row of `r1`; returns its rewards. A recorded episode about it is shown behind it.

        Raises:
            EOFError: where the person leaves.
        """
        task = find_task(row["task"])
        environment = Environment(task)
        environment.reset(row)
        asked, _, _ = row["prompt"][-1]["content"].rpartition("\n")
        print(visible(f"\n{row['task']}   {row['id']}\n{asked}"))
        for image in question_images(row):
            self.show(Observation(image=decode_image(image)))
        print(usage(task))
        seen: Observation | None = Observation()
        while seen is not None:
            seen = environment.step(self.message(task))
            if seen is not None:
                self.show(seen)
        rewards = score(task, environment.episode, row)
        print(visible(f"right is {row['answer']}\nyou: {described(environment.episode, rewards)}"))
        if recorded is not None:
            other = replay(task, recorded, row)
            for message in other.messages:
                print(visible(r1_format.completion_of(message)))
            print(f"recorded: {described(other, score(task, other, row))}")
        return rewards

    def message(self, task: Task) -> str:
        """The full message that the next line of the person makes."""
        print("> ", end="", flush=True)
        line = self.ask().strip()
        if "</think>" in line:
            return r1_format.full_message(line)
        if not task.has_tool or line.startswith(ANSWER):
            return r1_format.format_solution("I looked.", line.removeprefix(ANSWER))
        return format_call("Look.", line)

    def show(self, seen: Observation) -> None:
        """Show what came back.

        Raises:
            UserError: where the folder of images can't be written.
        """
        if seen.text:
            print(seen.text)
        if seen.image is not None and self.terminal:
            show(seen.image, WIDTH)
        elif seen.image is not None:
            self.shown += 1
            path = writable_folder(self.images) / f"{self.shown}.png"
            save(seen.image, path)
            print(f"image: {path}")


def usage(task: Task) -> str:
    """How a person says something."""
    if task.has_tool:
        return f"Say what you want to see, as the question has it in its tags, or: {ANSWER}{task.example_answer}"
    return f"Say your answer, for example: {task.example_answer}"


def described(episode: Episode, rewards: Mapping[str, float]) -> str:
    """The rewards of an episode, and how many calls it made."""
    calls = f"; {len(episode.calls)} calls" if episode.calls else ""
    return ", ".join(f"{name} {value:g}" for name, value in rewards.items()) + calls


def play_all(
    table: Table, rows: Iterator[Mapping[str, Any]], recorded: Mapping[str, list[str]], count: int
) -> list[dict[str, float]]:
    """Play up to `count` episodes, or until the person leaves; returns the rewards of those that ended."""
    played: list[dict[str, float]] = []
    try:
        while len(played) < count and (row := next(rows, None)) is not None:
            played.append(table.play(row, recorded.get(row["id"])))
    except (EOFError, KeyboardInterrupt):
        print()
    return played
