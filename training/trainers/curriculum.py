"""Which questions are asked, and when: at random, the easiest first, or those that are neither solved nor hopeless."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from datagen.common.errors import UserError
from datagen.task import DatasetSpec

UNKNOWN = 0.25  # the weight of a question of which nothing is known: as if it were solved every other time
LEAST = 0.02  # of one that is solved always or never: training changes that
MEMORY = 16  # questions over which the weight of a kind is averaged


def first_untraced(questions: int, traces: int) -> int:
    """Where, of so many questions, those begin of which a model was shown no trace; 0 where it was shown all."""
    return traces if traces < questions else 0


def check_enough(questions: int, config: Any) -> None:
    """Raise a `UserError` where there are fewer questions than one step asks: TRL would take no step, and not say so.

    `config` is the trainer's GRPOConfig.
    """
    asked = config.generation_batch_size // config.num_generations
    if questions < asked:
        raise UserError(
            f"a step asks {asked} questions, and only {questions} without a trace are in the train split: build a "
            "larger dataset, or lower per_device_train_batch_size or gradient_accumulation_steps with --set"
        )


def easiest_first(questions: Any, dataset: DatasetSpec, config: Any) -> Any:
    """The questions that a run will ask, ordered by the dataset's difficulty column, at random within a level.

    From easy to hard as in Bengio et al. 2009, https://doi.org/10.1145/1553374.1553380. A run that ends before it has
    seen every question asks a random part of them, so that it still ends with the hardest. `config` is the trainer's
    GRPOConfig: its `shuffle_dataset` is turned off, and so the order goes on where a checkpoint is resumed. A part of
    an epoch becomes a whole one of that part.
    """
    config.shuffle_dataset = False
    groups = config.generation_batch_size // config.num_generations  # questions that are asked at a time
    needed = len(questions)
    if config.max_steps > 0:
        batches = -(-config.max_steps * config.gradient_accumulation_steps // config.steps_per_generation)
        needed = -(-batches // config.num_iterations) * groups
    elif config.num_train_epochs < 1:
        needed = math.ceil(config.num_train_epochs * (len(questions) // groups)) * groups
        config.num_train_epochs = 1
    chosen = questions.shuffle(seed=config.seed).select(range(min(needed, len(questions))))
    levels = chosen[dataset.difficulty]
    return chosen.select(sorted(range(len(chosen)), key=levels.__getitem__))


class QuestionSource(Protocol):
    """What says which questions are asked next, as their places in the dataset; all processes get the same."""

    def draw(self, count: int) -> list[int]:
        """The next so many questions."""

    def record(self, questions: Sequence[int], solve_rates: Sequence[float]) -> None:
        """Take note of the mean correctness, from 0 to 1, of the completions of some questions."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, in JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""


class ShuffledQuestions:
    """Every one of `count` questions once a pass, each pass in another random order."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.asked = 0

    def draw(self, count: int) -> list[int]:
        """The next so many questions, over the end of a pass where it comes."""
        places = range(self.asked, self.asked + count)
        self.asked += count
        orders = {one: self.order(one) for one in {place // self.count for place in places}}
        return [int(orders[place // self.count][place % self.count]) for place in places]

    def order(self, number: int) -> Any:
        """The questions of a pass, (count,)."""
        return np.random.default_rng([self.seed, number]).permutation(self.count)

    def record(self, questions: Sequence[int], solve_rates: Sequence[float]) -> None:
        """Nothing: the order is fixed."""

    def state(self) -> dict[str, Any]:
        """How many have been asked."""
        return {"asked": self.asked}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on behind so many."""
        self.asked = int(state["asked"])


class QuestionPool:
    """Questions drawn with a chance that follows p(1 - p), where p is the last solve rate of each.

    That is the variance of its rewards, by which Foster et al. 2025 (https://arxiv.org/abs/2502.12272) choose. A run
    may ask each question once at most, so one that was not asked yet has the weight of its kind, a moving average over
    those that were. `kinds` has the kind of each question, such as its task and level.
    """

    def __init__(self, kinds: Iterable[Any], seed: int) -> None:
        kinds = list(kinds)
        names = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
        self.kinds = np.array([names[kind] for kind in kinds])
        self.kind_weights = np.full(len(names), UNKNOWN)
        self.rates = np.full(len(kinds), np.nan)  # of those not asked yet
        self.seed = seed
        self.draws = 0

    def weights(self) -> Any:
        """The weight of each question, (questions,)."""
        return np.where(np.isnan(self.rates), self.kind_weights[self.kinds], weight_of(self.rates))

    def draw(self, count: int) -> list[int]:
        """So many questions, all different."""
        weights = self.weights()
        random = np.random.default_rng([self.seed, self.draws])
        self.draws += 1
        return [int(one) for one in random.choice(len(weights), count, replace=False, p=weights / weights.sum())]

    def record(self, questions: Sequence[int], solve_rates: Sequence[float]) -> None:
        """Keep the last solve rates, and move the weights of their kinds."""
        for question, rate in zip(questions, solve_rates, strict=True):
            self.rates[question] = rate
            kind = self.kinds[question]
            self.kind_weights[kind] += (weight_of(rate) - self.kind_weights[kind]) / MEMORY

    def state(self) -> dict[str, Any]:
        """The draws so far, the last solve rates by question, and the weights of kinds."""
        known = np.flatnonzero(~np.isnan(self.rates))
        rates = {str(question): float(self.rates[question]) for question in known}
        return {"draws": self.draws, "solve_rates": rates, "kind_weights": self.kind_weights.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with these."""
        self.draws = int(state["draws"])
        self.kind_weights[:] = state["kind_weights"]
        for question, rate in state["solve_rates"].items():
            self.rates[int(question)] = rate


def weight_of(solve_rate: Any) -> Any:
    """p(1 - p), and `LEAST` at least."""
    return np.maximum(solve_rate * (1 - solve_rate), LEAST)
