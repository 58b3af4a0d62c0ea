"""A taskset as a dataset and a task of ours: its questions as rows, its rewards as rewards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.common.errors import UserError
from datagen.dataset.reader import OPENED, BuiltDataset, undecoded
from datagen.interaction import Episode, Interaction, Observation
from datagen.r1_format import full_message
from datagen.registry import register
from datagen.sources.split import SPLITS
from datagen.task import DatasetSpec, Task
from datagen.taskset.package import Package, check_task, load_package
from datagen.taskset.play import Played, Turn, play

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL import Image

LONGEST = 20  # messages of an episode, where the environment sets no max_turns
ACCURACY = "correctness"
PREFIX = "verifiers:"  # of a dataset's name: it is a taskset


@dataclass(frozen=True)
class Key:
    """What tells a taskset from others: the name of its package, how many of its tasks, and the hash of its code."""

    name: str
    limit: int | None
    code: str


@dataclass
class Taskset:
    """A taskset that is asked: its tasks in order, and the messages of an episode at most.

    `weights` are those of its rewards in verifiers, by name. That of `correctness` is 0 where it is no reward there.
    """

    package: Package
    tasks: list[Any]
    most: int
    weights: dict[str, float] = field(default_factory=dict)
    _last: tuple[Any, Played] | None = None

    def play(self, number: int, messages: Sequence[str], *, ended: bool = False) -> Played:
        """The episode about a task in which these full messages are said; the last one is remembered.

        Where it has `ended`, it is judged as it stands: no further message came.
        """
        about = number, tuple(messages), ended
        if self._last is None or self._last[0] != about:
            most = len(messages) if ended else self.most
            self._last = about, play(self.package, self.tasks[number], messages, most)
        return self._last[1]

    def judge(self, number: int, messages: Sequence[str]) -> dict[str, float]:
        """Each reward of an episode by its name, unweighted; and `correctness`.

        That is their mean with their weights, unless the taskset has a reward of that name.

        Raises:
            UserError: where a reward is not in [0, 1].
        """
        rewards = self.play(number, messages, ended=True).rewards
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
    """The questions of a taskset in the place of a dataset folder.

    Where it is `divided` a tenth of them is validation and a tenth test, by a hash of their images, so that no image is
    in two splits; else all are asked.
    """

    taskset: Taskset
    rows: Any
    divided: bool = False

    def first_questions(self, count: int) -> list[dict[str, Any]]:
        """As of a dataset folder."""
        asked = undecoded(self.questions("train"))
        return list(asked.select(range(min(count, len(asked)))))

    def questions(self, split: str, tasks: list[str] | None = None) -> Dataset:
        """The rows of a split; there is one task."""
        rows: Dataset = self.rows
        return rows.select([at for at, one in enumerate(rows["split"]) if one == split]) if self.divided else rows


def dataset_name(env: str) -> str:
    """The name of the dataset, and of its only task, that the taskset of a package is."""
    return env.replace("_", "-").lower()


def open_taskset(name: str, limit: int | None = None) -> TasksetDataset:
    """The first `limit` tasks (None: all) of the taskset of an installed package, whose code is run.

    `open_dataset` finds it afterwards, by `verifiers:` and its name.

    Raises:
        UserError: where there is none, or it can't be asked or judged here.
    """
    package = load_package(name)
    if limit is None and not package.env.taskset.bounded:
        raise UserError(f"{package.code} has tasks without end: say how many r1vlm-eval is to ask with --limit")
    key = Key(dataset_name(name), limit, _digest_code(package))
    taskset = opened(key)
    asked = [taskset.play(number, ()).turns for number in range(len(taskset.tasks))]
    splits = split_by_images([[_digest(image) for turn in turns for image in turn.images] for turns in asked])
    rows = [
        _row(key.name, number, taskset.tasks[number], turns, split)
        for number, (turns, split) in enumerate(zip(asked, splits, strict=True))
    ]
    for row in rows:
        if not row["images"]:
            raise UserError(f"{package.code} asks {row['id']} without an image, and r1vlm asks about images")
    register(_spec(key, taskset), package.code)
    # The ids have a hash of their tasks: the fingerprint is the code's, however many of the tasks are taken.
    manifest = {"recipe": {"dataset": key.name, "options": {}}, "fingerprint": key.code, "files": {}}
    dataset = TasksetDataset(
        PREFIX + key.name, Path(package.code.path).parent, manifest, taskset=taskset, rows=_table(rows)
    )
    OPENED[dataset.name] = dataset
    return dataset


def open_to_train(name: str) -> TasksetDataset:
    """The taskset of an installed package, with its questions divided into splits.

    Raises:
        UserError: as `open_taskset`, and where it can't be trained on: TRL puts the images of a question before its
            text, and a question is answered by one message.
    """
    opened_here = open_taskset(name)
    code = opened_here.taskset.package.code
    if opened_here.taskset.package.plays:
        raise UserError(f"{code} has several turns: r1vlm-eval asks them, and r1vlm-train takes tasksets of one")
    for number in range(len(opened_here.taskset.tasks)):
        *before, question = opened_here.taskset.play(number, ()).turns
        texts = [isinstance(part, str) for part in question.parts]
        plain = not any(turn.images for turn in before) and [turn.role for turn in before] in ([], ["system"])
        if not plain or texts != [False] * (len(texts) - 1) + [True]:
            raise UserError(
                f"{code} does not ask its question {number} by images with a text behind them, as TRL shows them: "
                "r1vlm-eval asks it, and it can't be trained on"
            )
    divided = replace(opened_here, divided=True)
    for split in SPLITS:
        if not len(divided.questions(split)):
            raise UserError(
                f"{code} has {len(opened_here.rows)} questions, and none falls into {split}: there are too few, or "
                "too many that share images, which are in one split"
            )
    OPENED[divided.name] = divided
    return divided


@cache
def opened(key: Key) -> Taskset:
    """The taskset of a key, its tasks checked and its rewards known.

    Raises:
        UserError: where there is no such package, or it has no tasks or some that can't be asked here.
    """
    package = load_package(key.name)
    tasks = list(islice(package.env.taskset, key.limit))
    if not tasks:
        raise UserError(f"{package.code} has no tasks")
    for task in tasks:
        check_task(task, package.code)
    most = (package.turns or LONGEST) if package.plays else 1
    taskset = Taskset(package, tasks, most)
    silence = [""] * most
    names = taskset.judge(0, silence)
    found = taskset.play(0, silence, ended=True).rewards
    taskset.weights = {name: found[name].weight if name in found else 0.0 for name in names}
    return taskset


def reward_of(key: Key, name: str, said: str | Episode, row: Mapping[str, Any]) -> float:
    """One reward of what was said about a row.

    Raises:
        UserError: as `opened`.
    """
    messages = said.messages if isinstance(said, Episode) else [said]
    taskset = opened(key)
    scores = taskset.judge(row["number"], messages)
    if scores.keys() != taskset.weights.keys():
        raise UserError(f"{taskset.package.code} gives other rewards to {row['id']} than to its first task")
    return scores[name]


def respond(key: Key, episode: Episode, row: Mapping[str, Any]) -> Observation | None:
    """What the environment shows in answer to the last message, several images side by side; None where it is over.

    Raises:
        UserError: as `opened`.
    """
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
        rewards={name: partial(reward_of, key, name) for name in taskset.weights},
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


def split_by_images(shown: Sequence[Sequence[str]]) -> list[str]:
    """The split of each question, of the digests of its images: questions that images connect are in one split."""
    leader: dict[str, str] = {}

    def lead(image: str) -> str:
        while (other := leader.setdefault(image, image)) != image:
            leader[image] = leader[other]  # the next way is shorter
            image = other
        return image

    for images in shown:
        leaders = {lead(image) for image in images}
        leader.update(dict.fromkeys(leaders, min(leaders, default="")))
    places = [int(lead(images[0])[:8], 16) % 10 if images else 0 for images in shown]
    return [("validation", "test", *["train"] * 8)[place] for place in places]


def _digest(*images: Image.Image) -> str:
    return hashlib.sha256(b"".join(repr(image.size).encode() + image.tobytes() for image in images)).hexdigest()


def _row(name: str, number: int, task: Any, turns: Sequence[Turn], split: str) -> dict[str, Any]:
    images = [image for turn in turns for image in turn.images]
    return {
        "id": f"{name}-{number:06d}-{task.hash[:8]}",
        "number": number,
        "task": name,
        "image_id": _digest(*images)[:16],
        "split": split,
        "images": images,
        "shown": len(images),
        "prompt": [{"role": turn.role, "content": turn.text} for turn in turns],
        "answer": "",
        "solution": full_message("</think>\n"),  # a taskset has none; the length of answers is not taken from it
    }


def _table(rows: list[dict[str, Any]]) -> Dataset:
    from datasets import Dataset, Features, Image, List, Value

    message = {"role": Value("string"), "content": Value("string")}
    texts = dict.fromkeys(("id", "task", "image_id", "split", "answer", "solution"), Value("string"))
    numbers = dict.fromkeys(("number", "shown"), Value("int64"))
    features = Features({**texts, **numbers, "images": List(Image()), "prompt": List(message)})
    return Dataset.from_list(rows, features=features)


def _digest_code(package: Package) -> str:
    """SHA-256 of the code of a package, as 64 hexadecimal digits."""
    path = Path(package.code.path)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    lines = [f"{file.relative_to(path.parent)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return hashlib.sha256("\n".join([str(package.code.version), *lines]).encode()).hexdigest()
