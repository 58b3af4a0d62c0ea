"""Groups whose rewards have no variance are replaced by other questions, up to a limit; and who says which are asked.

Dynamic sampling of DAPO (Yu et al. 2025, https://arxiv.org/abs/2503.14476, section 3.2). TRL 1.16 has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate.utils import gather_object
from torch import Tensor
from trl.data_utils import prepare_multimodal_messages

from datagen.common.files import write_json
from datagen.common.untrusted import read_object
from datagen.interaction import question_images
from datagen.task import DatasetSpec
from training.config import StageConfig
from training.trainers.checkpoints import QUESTIONS
from training.trainers.curriculum import QuestionPool, QuestionSource, ShuffledQuestions
from training.trainers.shared_prefix.trainer import SharedPrefix
from training.trainers.zero_variance import zero_variance
from training.trl_compat import AtomicCheckpoints

MOST = 4  # batches that are sampled for one that is trained on
CORRECT = "correctness"  # the reward that is a question's solve rate
Sample = tuple[list[int], list[int], Any, list[float] | None]
"""A completion as TRL samples it: ids of its prompt, its own ids, its messages, its log-probabilities with vLLM."""


@dataclass(frozen=True)
class Group:
    """A question, by its place in the dataset, with its completions and their `rewards` (completions, rewards)."""

    question: int
    samples: list[Sample]
    rewards: Tensor
    same: bool
    """Whether all completions earned the same."""


class DynamicSampling(AtomicCheckpoints, SharedPrefix):
    """A mixin for TRL's trainer that draws its questions from `source`; where that is None, TRL's sampler says.

    A batch is sampled first, as often as it takes, and then TRL makes of it what it makes of any: its own generation
    and rewards are replaced by what was sampled. All processes draw the same questions, and share the completions
    evenly. The figures logged of rewards are of everything that was sampled. What decides the next questions is in
    every checkpoint. Private parts of TRL that it overrides are listed in `training.trl_compat`.
    """

    source: QuestionSource | None = None
    most = 1  # batches that are sampled for one
    sampled = 0  # completions so far, of all processes

    def choose_questions(self, stage: StageConfig, dataset: DatasetSpec, checkpoint: Path | None) -> None:
        """Choose questions as the stage says from now on, or go on with that from a checkpoint.

        Raises:
            UserError: where the checkpoint lacks what it takes to go on.
        """
        self.source = question_source(self.train_dataset, dataset, stage)
        self.most = MOST if stage.settings.get("dynamic_sampling") else 1
        if self.source is not None and checkpoint is not None:
            state = read_object(checkpoint / QUESTIONS, "delete the checkpoint, and go on from the one before")
            self.source.restore(state["source"])
            self.sampled = state["sampled"]

    def complete_checkpoint(self, checkpoint: Path) -> None:
        """Add what decides the next questions."""
        super().complete_checkpoint(checkpoint)
        if self.source is not None:
            write_json(checkpoint / QUESTIONS, {"sampled": self.sampled, "source": self.source.state()})

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.source is None or not self.model.training:
            plain: dict[str, Any] = super()._generate_and_score_completions(inputs)
            return plain
        groups, everything = self.sample_batch(self.source)
        mine = self.local([(one.question, sample) for one in groups for sample in one.samples])
        prompts, completions, messages, logprobs = zip(*(sample for _, sample in mine), strict=True)
        logged = None if logprobs[0] is None else [*logprobs]
        generated: tuple[Any, ...] = [*prompts], [*completions], None, [*messages], logged, {}, None, []
        rewards = torch.cat([one.rewards for one in groups])
        with (
            patch.object(self, "_generate", lambda _: generated),
            patch.object(self, "_calculate_rewards", lambda *_: rewards),
        ):
            batch: dict[str, Any] = super()._generate_and_score_completions(self.rows([one for one, _ in mine]))
        self.log_sampled(everything, len(groups))
        return batch

    def sample_batch(self, source: QuestionSource) -> tuple[list[Group], list[Group]]:
        """The groups to train on, and all that were sampled for them.

        Those without variance fill the batch up where it is not full at the limit.
        """
        wanted = self.args.generation_batch_size // self.num_generations
        shared = self.accelerator.num_processes // math.gcd(self.accelerator.num_processes, self.num_generations)
        everything: list[Group] = []
        missing = wanted
        while missing > 0 and len(everything) < self.most * wanted:
            count = -(-missing // shared) * shared  # so that each process has as many completions
            groups = self.sample_groups(source.draw(min(count, self.most * wanted - len(everything))))
            source.record(*self.solve_rates(groups))
            everything += groups
            missing = wanted - sum(not one.same for one in everything)
        return sorted(everything, key=lambda one: one.same)[:wanted], everything

    def sample_groups(self, questions: Sequence[int]) -> list[Group]:
        """Completions of questions, and their rewards; each process samples its share, and has all of them then."""
        size = self.num_generations
        rows = self.rows(self.local([question for question in questions for _ in range(size)]))
        prompts = [prepare_multimodal_messages(row["prompt"], images=question_images(row)) for row in rows]
        with self.groups(self.groups_of(len(rows))):
            prompt_ids, completion_ids, _, messages, logprobs, *_ = self._generate(prompts)
        rewards = self._calculate_rewards(rows, prompts, messages, completion_ids)
        logprobs = logprobs or [None] * len(rows)
        samples = gather_object(list(zip(prompt_ids, completion_ids, messages, logprobs, strict=True)))
        self.sampled += len(samples)
        same = zero_variance(self.totals(rewards).tolist(), size)[::size]
        parts = [samples[start : start + size] for start in range(0, len(samples), size)]
        return [Group(*one) for one in zip(questions, parts, rewards.split(size), same, strict=True)]

    def rows(self, questions: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of questions, each read once."""
        read = {question: self.train_dataset[question] for question in dict.fromkeys(questions)}
        return [read[question] for question in questions]

    def local(self, everything: list[Any]) -> list[Any]:
        """The part of this process in what all processes have."""
        share = len(everything) // self.accelerator.num_processes
        return everything[self.accelerator.process_index * share :][:share]

    def totals(self, rewards: Tensor) -> Tensor:
        """The weighted sums of rewards, (completions,)."""
        totals: Tensor = (rewards * self.reward_weights.to(rewards.device)).sum(dim=1)
        return totals

    def solve_rates(self, groups: Sequence[Group]) -> tuple[list[int], list[float]]:
        """Questions and their solve rates."""
        column = self.reward_func_names.index(CORRECT)
        return [one.question for one in groups], [float(one.rewards[:, column].mean()) for one in groups]

    def log_sampled(self, groups: Sequence[Group], kept: int) -> None:
        """Log figures of what was sampled in place of TRL's, which are of what was kept."""
        metrics = self._metrics["train"]
        rewards = torch.cat([one.rewards for one in groups])
        figures = dict(zip((f"rewards/{name}" for name in self.reward_func_names), rewards.T, strict=True))
        for name, values in figures.items():
            metrics[f"{name}/mean"][-1], metrics[f"{name}/std"][-1] = values.mean().item(), values.std().item()
        totals = self.totals(rewards)
        metrics["reward"][-1], metrics["reward_std"][-1] = totals.mean().item(), totals.std().item()
        metrics["sampling/completions"] = [float(self.sampled)]
        if self.most > 1:
            metrics["sampling/frac_groups_replaced"].append(1 - kept / len(groups))


def question_source(questions: Any, dataset: DatasetSpec, stage: StageConfig) -> QuestionSource | None:
    """Where a stage's questions come from; None where TRL's own sampler will do."""
    if stage.settings.get("curriculum") == "pool":
        return QuestionPool(zip(questions["task"], questions[dataset.difficulty], strict=True), stage.seed)
    return ShuffledQuestions(len(questions), stage.seed) if stage.settings.get("dynamic_sampling") else None
