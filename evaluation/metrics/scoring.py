"""Scores of full assistant messages by the tasks' own rewards, and their means. No model, no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datagen.interaction import Episode
from datagen.r1_format import extract_answer
from datagen.registry import find_task
from datagen.task import score
from evaluation.metrics.statistics import mean_interval, pass_at_k

Question = Mapping[str, Any]
"""A row of the `r1` config; its image is not looked at."""

ACCURACY = "correctness"  # the reward whose mean is the accuracy


@dataclass(frozen=True)
class Scored:
    """Questions in the order of the dataset, the episode of each, and its rewards by name."""

    questions: Sequence[Question]
    episodes: Sequence[Episode]
    rewards: Sequence[Mapping[str, float]]

    @property
    def messages(self) -> list[str]:
        """The last full assistant message of each."""
        return [episode.final for episode in self.episodes]

    @property
    def correctness(self) -> NDArray[np.float64]:
        """(n,) numbers in [0, 1]."""
        return np.array([rewards[ACCURACY] for rewards in self.rewards], dtype=np.float64)

    @property
    def images(self) -> list[str]:
        """The image each question is about, by `image_id`."""
        return [question["image_id"] for question in self.questions]

    def only(self, **columns: Any) -> Scored:
        """The questions whose columns have these values."""
        keep = [i for i, q in enumerate(self.questions) if all(q[name] == value for name, value in columns.items())]
        return Scored(
            [self.questions[i] for i in keep], [self.episodes[i] for i in keep], [self.rewards[i] for i in keep]
        )

    def groups(self, *columns: str) -> list[tuple[dict[str, Any], Scored]]:
        """The parts that these columns cut the questions into, each with its values; sorted by the values."""
        values = sorted({tuple(question[name] for name in columns) for question in self.questions})
        keys = [dict(zip(columns, value, strict=True)) for value in values]
        return [(key, self.only(**key)) for key in keys]


def score_episodes(questions: Sequence[Question], episodes: Sequence[Episode]) -> Scored:
    """The rewards of one episode for each question.

    Raises:
        ValueError: where there are not as many episodes as questions.
        RewardRangeError: where a reward is not in [0, 1]. That, and whatever a reward raises, is a mistake of ours.
    """
    pairs = zip(questions, episodes, strict=True)
    return Scored(questions, episodes, [score(find_task(q["task"]), episode, q) for q, episode in pairs])


def score_messages(questions: Sequence[Question], messages: Sequence[str]) -> Scored:
    """The rewards of one full assistant message for each question; raises as `score_episodes`."""
    return score_episodes(questions, [Episode([message]) for message in messages])


def summary(scored: Scored) -> dict[str, Any]:
    """`n`, `accuracy`, `accuracy_ci95`, and `rewards`, the mean of each over the questions that have it.

    Of tasks of several turns also what `turn_figures` gives.
    """
    return {
        "n": len(scored.questions),
        "accuracy": float(scored.correctness.mean()),
        "accuracy_ci95": list(mean_interval(scored.correctness, scored.images)),
        "rewards": mean_rewards(scored.rewards),
        **turn_figures(scored),
    }


def turn_figures(scored: Scored) -> dict[str, float]:
    """What happens in the episodes of tasks of several turns; nothing of tasks of one turn.

    With a tool `calls` and `refused_calls`, an episode, and where the task has the reward `economy` also `looked`: the
    share of episodes that earn some of it, which are right after a look at all that was asked about. Without a tool,
    `mended` and `spoiled`: the shares of episodes in which only the last message is right, and only the first.
    """
    with_tool, without = [], []
    for question, episode, rewards in zip(scored.questions, scored.episodes, scored.rewards, strict=True):
        task = find_task(question["task"])
        if task.has_tool:
            with_tool.append((episode, rewards))
        elif task.interaction is not None and task.interaction.rechecks:
            first = score(task, Episode(episode.messages[:1]), question)
            without.append(rewards["correctness"] - first["correctness"])
    figures = {}
    if with_tool:
        accepted = [[seen.ok for _, seen in episode.calls] for episode, _ in with_tool]
        figures["calls"] = float(np.mean([len(calls) for calls in accepted]))
        figures["refused_calls"] = float(np.mean([calls.count(False) for calls in accepted]))
        if looked := [rewards["economy"] > 0 for _, rewards in with_tool if "economy" in rewards]:
            figures["looked"] = float(np.mean(looked))
    if without:
        figures["mended"] = float(np.mean([change > 0 for change in without]))
        figures["spoiled"] = float(np.mean([change < 0 for change in without]))
    return figures


def sampled(scored: Scored, samples: int) -> dict[str, Any]:
    """Of several answers to each question: `pass_at` 1, 2, 4, … of them, and the accuracy of the `majority`.

    The majority is the answer given most often, of equals the first; it is right where the first message with it is.
    """
    groups: dict[str, list[tuple[str | None, bool]]] = {}
    for question, message, right in zip(scored.questions, scored.messages, scored.correctness == 1, strict=True):
        groups.setdefault(question["id"], []).append((extract_answer(message), bool(right)))
    images = {question["id"]: question["image_id"] for question in scored.questions}
    counts = [sum(right for _, right in answers) for answers in groups.values()]
    ks = [2**power for power in range(samples.bit_length())]
    voted = np.array([majority_right(answers) for answers in groups.values()], dtype=np.float64)
    return {
        "samples": samples,
        "pass_at": {str(k): float(np.mean([pass_at_k(samples, n, k) for n in counts])) for k in ks},
        "majority": float(voted.mean()),
        "majority_ci95": list(mean_interval(voted, [images[name] for name in groups])),
    }


def majority_right(answers: Sequence[tuple[str | None, bool]]) -> bool:
    """Whether the commonest of some (answer, whether it is right) is; None has no vote."""
    votes = Counter(answer for answer, _ in answers if answer is not None)
    if not votes:
        return False
    chosen = votes.most_common(1)[0][0]
    return next(right for answer, right in answers if answer == chosen)


def mean_rewards(rewards: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each reward over the messages that have it."""
    values: dict[str, list[float]] = {}
    for message_rewards in rewards:
        for name, value in message_rewards.items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(column)) for name, column in values.items()}


def slices(scored: Scored, difficulty: str) -> dict[str, list[dict[str, Any]]]:
    """Summaries `by_task`, and `by_difficulty` of each task (its rows also have the `difficulty` column)."""
    return {
        "by_task": [{**key, **summary(part)} for key, part in scored.groups("task")],
        "by_difficulty": [{**key, **summary(part)} for key, part in scored.groups("task", difficulty)],
    }
