"""Generating completions: those that are cached are not generated again, and new ones are kept as they come."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from datagen.common.errors import UserError
from datagen.interaction import Episode
from datagen.registry import find_task
from datagen.task import score
from evaluation.backends.base import Backend, NoAnswer, Prompt, backend_versions, choose_backend
from evaluation.completion_cache import CompletionCache, open_cache
from evaluation.completions import oddities
from evaluation.config import EvalPlan
from evaluation.metrics.scoring import ACCURACY, Question, Scored, score_episodes
from evaluation.metrics.statistics import wilson
from evaluation.model_source import ModelSource
from evaluation.prompt_variants import Row, Variant

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Questions:
    """The questions of a plan, with their images (`rows`) and without (`examples`).

    `split_ids` are the ids of all questions of the split.
    """

    rows: Dataset
    examples: list[Row]
    split_ids: set[str]

    @property
    def ids(self) -> list[str]:
        """The ids, in the order of the dataset."""
        return [example["id"] for example in self.examples]


def select_questions(plan: EvalPlan) -> Questions:
    """The questions of a plan, in the order of the dataset."""
    split = plan.dataset.questions(plan.split)
    indices = [i for i, task in enumerate(split["task"]) if task in plan.tasks][: plan.limit]
    rows = split.select(indices)
    return Questions(rows, rows.remove_columns("image").to_list(), set(split["id"]))


Index = tuple[int, int]
"""The index of a row, and the number of the sample."""


@dataclass(frozen=True)
class Answers:
    """An episode for each question (and sample), what generated them, and how long it took.

    `unanswered` are how many questions (and samples) got no answer: their messages end with the opening words.
    """

    episodes: list[Episode]
    backend: Mapping[str, str]
    seconds: float
    unanswered: int = 0


@dataclass(frozen=True)
class PromptList(Sequence[Prompt]):
    """The prompts of some rows, made when they are read: images take memory.

    `indices` are (index of the row, number of the sample), `episodes` what was said of each so far.
    """

    variant: Variant
    rows: Dataset
    indices: Sequence[Index]
    episodes: Mapping[Index, Episode]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.indices)

    def __getitem__(self, position: Any) -> Any:
        """The prompt at a position."""
        row, sample = self.indices[position]
        return self.variant.prompt(self.rows, row, sample, self.episodes[row, sample])


class AnswerGenerator:
    """A model that answers questions; its weights are loaded for the first question that is not cached."""

    def __init__(self, plan: EvalPlan, model: ModelSource) -> None:
        self.plan = plan
        self.model = model
        self.backend: Backend | None = None
        self.warnings: list[str] = []

    def generate(self, variant: Variant, questions: Questions) -> tuple[Answers, Scored]:
        """The answers to all questions, asked in one way, each as often as the plan says; and their scores.

        Of tasks of several turns all episodes go on together, a message each.
        """
        truths = variant.ground_truths(questions.rows, questions.examples)
        indices = [(i, k) for i in range(len(truths)) for k in range(self.plan.sampling.samples)]
        episodes = {index: Episode() for index in indices}
        reasons, first = list[str](), list[str]()
        with open_cache(self.cache_key(variant, len(indices))) as cache:
            live, turn = indices, 0
            while live:
                reasons += self._ask(PromptList(variant, questions.rows, live, episodes), cache, truths)
                texts = [cache.completions.get((truths[i]["id"], k, turn), "") for i, k in live]
                first = first or texts
                before, live, turn = live, [], turn + 1
                for (i, k), text in zip(before, texts, strict=True):
                    message, task = variant.full_message(truths[i], text), find_task(truths[i]["task"])
                    if variant.goes_on(episodes[i, k], message, task, questions.rows, i):
                        live.append((i, k))
            answers = Answers(list(episodes.values()), cache.backend, cache.seconds, len(reasons))
            self._warn(cache.notes)
        self._warn(self._doubts(variant, first, reasons))
        return answers, score_episodes([truths[i] for i, _ in indices], answers.episodes)

    def _ask(self, prompts: PromptList, cache: CompletionCache, truths: Sequence[Question]) -> list[str]:
        """Cache the next message of each episode; returns why some questions got none."""
        variant, live = prompts.variant, prompts.indices
        turn = len(prompts.episodes[live[0]].messages)
        missing = [(i, k) for i, k in live if (truths[i]["id"], k, turn) not in cache.completions]
        if missing:
            backend = self._load_backend(len(live))
            if not turn and cache.backend != backend.describe():  # on another kind of device, for one
                missing = list(live)
                cache.reset(backend.describe())
            missing.sort(key=lambda index: truths[index[0]]["task"])  # similar lengths: no batch waits for one row
            return self._generate(backend, replace(prompts, indices=missing), cache, truths)
        if cache.completions and not turn:
            print(f"{self.model.label}: {variant.title}, all {len(live)} answers are there already", flush=True)
            if self.model.is_remembered_by_address:
                print("  of this server: where it has other weights by now, set R1VLM_CACHE to a new folder")
        return []

    def _doubts(self, variant: Variant, texts: Sequence[str], reasons: Sequence[str]) -> list[str]:
        """Sentences about answers that did not come, or may not be what the model has said.

        Raises:
            UserError: where no answer came at all.
        """
        label = self._label(variant)
        if reasons and len(reasons) == len(texts):
            raise UserError(f"{label}: no question got an answer: {reasons[0]}")
        sentences = [f"{label}: {sentence}" for sentence in oddities(texts, opened=variant.opening)]
        if reasons:
            sentences.append(
                f"{label}: {len(reasons)} of {len(texts)} questions got no answer ({reasons[0]}); they count as wrong, "
                "and are asked again when the same command is run again."
            )
        return sentences

    def _warn(self, sentences: Sequence[str]) -> None:
        """Say each sentence once on stderr, and keep it for the result."""
        for sentence in sentences:
            if sentence not in self.warnings:
                print(f"warning: {sentence}", file=sys.stderr, flush=True)
                self.warnings.append(sentence)

    def _label(self, variant: Variant) -> str:
        return self.model.label if variant.name == "r1" else f"{self.model.label}, {variant.title}"

    def cache_key(self, variant: Variant, prompts: int) -> dict[str, Any]:
        """Everything that determines the completions, apart from the kind of device.

        A change of a name or a value here makes every completion that was cached before unreachable.
        """
        sampling = self.plan.sampling
        return {
            "model": self.model.fingerprint,
            "data": self.plan.dataset.fingerprint,
            "variant": variant.name,
            "max_new_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "engine": backend_versions(choose_backend(self.plan.backend, self.model, prompts)),
        }

    def _load_backend(self, prompts: int) -> Backend:
        if self.backend is None:
            self.backend = load_backend(self.plan, self.model, prompts)
            self._warn(self.backend.notes())
        return self.backend

    def _generate(
        self, backend: Backend, prompts: PromptList, cache: CompletionCache, truths: Sequence[Question]
    ) -> list[str]:
        """Cache a completion for each prompt, under a progress bar that shows the accuracy so far.

        What was not answered is not cached; returns the reasons.
        """
        variant, correct, started = prompts.variant, 0.0, time.perf_counter()
        reasons = list[str]()
        try:
            with tqdm(total=len(prompts), desc=self._label(variant), unit="question") as progress:
                for done, (position, answer) in enumerate(backend.generate(prompts), start=1):
                    index, sample = prompts.indices[position]
                    truth, before = truths[index], prompts.episodes[index, sample]
                    if isinstance(answer, NoAnswer):
                        reasons.append(answer.reason)
                    else:
                        cache.add((truth["id"], sample, len(before.messages)), answer)
                    message = variant.full_message(truth, "" if isinstance(answer, NoAnswer) else answer)
                    episode = Episode([*before.messages, message], before.observations)
                    correct += score(find_task(truth["task"]), episode, truth)[ACCURACY]
                    low, high = wilson(correct / done, done)
                    accuracy = f"accuracy {correct / done:.1%} ({100 * low:.0f} to {100 * high:.0f})"
                    progress.set_postfix_str(accuracy, refresh=False)
                    progress.update()
        finally:
            cache.add_seconds(time.perf_counter() - started)
            for sentence in backend.notes():
                cache.add_note(sentence)
        return reasons


def load_backend(plan: EvalPlan, model: ModelSource, prompts: int) -> Backend:
    """The backend that the plan chooses for a model and a number of prompts, ready to answer.

    Raises:
        UserError: where it can't load the model, or there is no such server.
    """
    name = choose_backend(plan.backend, model, prompts)
    if name == "openai":
        from evaluation.backends import openai

        return openai.connect(str(model.endpoint), model.name, plan.sampling, plan.batch_size or openai.CONCURRENCY)
    if name == "vllm":
        from evaluation.backends import vllm

        return vllm.load(model.path, plan.sampling)
    from evaluation.backends import transformers

    return transformers.load(model.path, plan.sampling, plan.batch_size or transformers.BATCH_SIZE)
