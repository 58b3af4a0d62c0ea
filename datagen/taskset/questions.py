"""A taskset as a dataset and a task of ours: its questions as rows, its rewards as rewards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.common.errors import UserError
from datagen.dataset.reader import BuiltDataset
from datagen.interaction import Episode, Interaction, Observation
from datagen.registry import register
from datagen.task import DatasetSpec, Task
from datagen.taskset.package import Package, check_task, load_package
from datagen.taskset.play import Played, Turn, play

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

LONGEST = 20  # messages of an episode, where the environment sets no max_turns
ACCURACY = "correctness"


@dataclass(frozen=True)
class Key:
    """What tells a taskset from others: the name of its package, how many of its tasks, and the hash of its code."""

    name: str
    limit: int | None
    code: str


@dataclass
class Taskset:
    """A taskset that is asked: its tasks in order, the names of its rewards, and the messages of an episode at most."""

    package: Package
    tasks: list[Any]
    most: int
    rewards: list[str] = field(default_factory=list)
    _last: tuple[Any, Played] | None = None

    def play(self, number: int, messages: Sequence[str]) -> Played:
        """The episode about a task in which these full messages are said; the last one is remembered."""
        about = number, tuple(messages)
        if self._last is None or self._last[0] != about:
            self._last = about, play(self.package, self.tasks[number], messages, self.most)
        return self._last[1]

    def judge(self, number: int, messages: Sequence[str]) -> dict[str, float]:
        """Each reward of an episode by its name, unweighted; and `correctness`.

        That is their mean with their weights, unless the taskset has a reward of that name.

        Raises:
            UserError: where a reward is not in [0, 1].
        """
        rewards = self.play(number, messages).rewards
        scores = {name: float(reward.score) for name, reward in rewards.items()}
        weights = sum(reward.weight for reward in rewards.values())
        if weights <= 0 or min(reward.weight for reward in rewards.values()) < 0:
            raise UserError(f"{self.package.code} has rewards whose weights are not above 0: {', '.join(scores)}")
        for name, score in scores.items():
            if not 0.0 <= score <= 1.0:
                raise UserError(f"{self.package.code} gives the reward {name} {score}, and 0 to 1 is wanted here")
        mean = sum(reward.score * reward.weight for reward in rewards.values()) / weights
        return {**scores, ACCURACY: scores.get(ACCURACY, mean)}


@dataclass(frozen=True)
class TasksetDataset(BuiltDataset):
    """The questions of a taskset in the place of a dataset folder; all are of the test split."""

    taskset: Taskset
    rows: Any

    def questions(self, split: str, tasks: list[str] | None = None) -> Dataset:
        """The rows; `split` and `tasks` leave none out."""
        rows: Dataset = self.rows
        return rows


def open_taskset(name: str, limit: int | None = None) -> TasksetDataset:
    """The first `limit` tasks (None: all) of the taskset of an installed package, whose code is run.

    Raises:
        UserError: where there is none, or it can't be asked or judged here.
    """
    package = load_package(name)
    if limit is None and not package.env.taskset.bounded:
        raise UserError(f"{package.code} has tasks without end: say how many with --limit")
    key = Key(name.replace("_", "-").lower(), limit, _digest(package))
    taskset = opened(key)
    asked = [taskset.play(number, ()).turns for number in range(len(taskset.tasks))]
    rows = [_row(key.name, number, turns) for number, turns in enumerate(asked)]
    for row in rows:
        if not row["images"]:
            raise UserError(f"{package.code} asks {row['id']} without an image, and r1vlm asks about images")
    register(_spec(key, taskset), package.code)
    hashes = "\n".join([key.code, *(task.hash for task in taskset.tasks)])
    manifest = {
        "recipe": {"dataset": key.name, "options": {}},
        "fingerprint": hashlib.sha256(hashes.encode()).hexdigest(),
        "files": {},
    }
    return TasksetDataset(str(package.code), Path(package.code.path).parent, manifest, taskset, _table(rows))


@cache
def opened(key: Key) -> Taskset:
    """The taskset of a key, its tasks checked and its rewards known."""
    package = load_package(key.name)
    tasks = list(islice(package.env.taskset, key.limit))
    if not tasks:
        raise UserError(f"{package.code} has no tasks")
    for task in tasks:
        check_task(task, package.code)
    most = (package.turns or LONGEST) if package.plays else 1
    taskset = Taskset(package, tasks, most)
    taskset.rewards = list(taskset.judge(0, [""] * most))  # of an episode in which nothing is said
    return taskset


def reward_of(key: Key, name: str, said: str | Episode, row: Mapping[str, Any]) -> float:
    """One reward of what was said about a row."""
    messages = said.messages if isinstance(said, Episode) else [said]
    taskset = opened(key)
    scores = taskset.judge(row["number"], messages)
    if scores.keys() != {*taskset.rewards}:
        raise UserError(f"{taskset.package.code} gives other rewards to {row['id']} than to its first task")
    return scores[name]


def respond(key: Key, episode: Episode, row: Mapping[str, Any]) -> Observation | None:
    """What the environment shows in answer to the last message, several images side by side; None where it is over."""
    played = opened(key).play(row["number"], episode.messages)
    if played.over:
        return None
    last = max(place for place, turn in enumerate(played.turns) if turn.said)
    shown = played.turns[last + 1 :]
    images = [image for turn in shown for image in turn.images]
    return Observation("\n".join(turn.text for turn in shown if turn.text), side_by_side(images) if images else None)


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Several images in one, as a file of completions and a report have them; a model is shown each as it is."""
    from PIL import Image

    strip = Image.new("RGB", (sum(image.width for image in images), max(image.height for image in images)))
    for place, image in enumerate(images):
        strip.paste(image, (sum(before.width for before in images[:place]), 0))
    return strip


def conversation(key: Key, number: int, messages: Sequence[str]) -> list[Turn]:
    """What a model is asked about a task, behind these full messages."""
    return opened(key).play(number, messages).turns


def always(message: str) -> bool:
    """Whether something may come back to a message: the environment says so when it has seen it."""
    return True


def _spec(key: Key, taskset: Taskset) -> DatasetSpec:
    package = taskset.package
    several = Interaction(partial(respond, key), taskset.most, plan=lambda row: [], goes_on=always, rechecks=False)
    task = Task(
        name=key.name,
        summary=f"the taskset of {package.code}",
        ask=lambda row: "",
        example_answer="",
        answer=lambda row: "",
        solve=lambda row: "",
        rewards={name: partial(reward_of, key, name) for name in taskset.rewards},
        interaction=several if package.plays else None,
    )
    return DatasetSpec(
        name=key.name,
        version=package.code.version or "0",
        summary=task.summary,
        draw=None,
        sources=("verifiers",),
        options=(),
        raw_columns={},
        r1_columns=("images", "number", "shown"),
        difficulty="shown",
        disjoint=(),
        tasks=(task,),
        several_images=True,
    )


def _row(name: str, number: int, turns: Sequence[Turn]) -> dict[str, Any]:
    images = [image for turn in turns for image in turn.images]
    pixels = hashlib.sha256(b"".join(repr(image.size).encode() + image.tobytes() for image in images)).hexdigest()
    return {
        "id": f"{name}-{number:06d}",
        "number": number,
        "task": name,
        "image_id": pixels[:16],
        "images": images,
        "shown": len(images),
        "prompt": [{"role": turn.role, "content": turn.text} for turn in turns],
        "answer": "",
    }


def _table(rows: list[dict[str, Any]]) -> Dataset:
    from datasets import Dataset, Features, Image, List, Value

    message = {"role": Value("string"), "content": Value("string")}
    texts = dict.fromkeys(("id", "task", "image_id", "answer"), Value("string"))
    numbers = dict.fromkeys(("number", "shown"), Value("int64"))
    features = Features({**texts, **numbers, "images": List(Image()), "prompt": List(message)})
    return Dataset.from_list(rows, features=features)


def _digest(package: Package) -> str:
    """SHA-256 of the code of a package, as 64 hexadecimal digits."""
    path = Path(package.code.path)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    lines = [f"{file.relative_to(path.parent)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return hashlib.sha256("\n".join([str(package.code.version), *lines]).encode()).hexdigest()
