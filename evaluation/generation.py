"""Asking a model: what it has answered before is not asked again, and what it answers is kept as it comes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from evaluation.backends.base import Backend, Prompt, backend_versions, choose_backend
from evaluation.completion_cache import CompletionCache, open_cache
from evaluation.completions import SampleKey
from evaluation.config import EvalPlan
from evaluation.metrics.scoring import ACCURACY, Question, Scored, score, score_one
from evaluation.metrics.statistics import wilson
from evaluation.model_source import ModelSource
from evaluation.prompt_variants import Variant

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Questions:
    """The questions of a plan: `rows` with the image, `questions` without; `known` are all ids of the split."""

    rows: Dataset
    questions: list[dict[str, Any]]
    known: set[str]

    @property
    def ids(self) -> list[str]:
        """The ids, in the order of the dataset."""
        return [question["id"] for question in self.questions]


def select_questions(plan: EvalPlan) -> Questions:
    """The questions of a plan, in the order of the dataset."""
    split = plan.dataset.questions(plan.split)
    places = [i for i, task in enumerate(split["task"]) if task in plan.tasks][: plan.limit]
    rows = split.select(places)
    return Questions(rows, rows.remove_columns("image").to_list(), set(split["id"]))


@dataclass(frozen=True)
class Answers:
    """A full assistant message for each question, and how they came about."""

    messages: list[str]
    engine: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class PromptList(Sequence[Prompt]):
    """The prompts of some rows, made when they are asked for: images take memory."""

    variant: Variant
    rows: Dataset
    places: Sequence[tuple[int, int]]
    """The row, and the how-manieth sample of it."""

    def __len__(self) -> int:
        """How many there are."""
        return len(self.places)

    def __getitem__(self, at: Any) -> Any:
        """The prompt at a place."""
        return self.variant.prompt(self.rows, *self.places[at])


class AnswerGenerator:
    """A model that answers; it is loaded when the first question is asked that it has not answered before."""

    def __init__(self, plan: EvalPlan, subject: ModelSource) -> None:
        self.plan = plan
        self.subject = subject
        self.loaded: Backend | None = None

    def ask(self, variant: Variant, asked: Questions) -> tuple[Answers, Scored]:
        """The answers to all questions, asked in one way, each as often as the plan says; and their scores."""
        judged = variant.judged(asked.rows, asked.questions)
        ids, samples = asked.ids, range(self.plan.sampling.samples)
        places = [(i, k) for i in range(len(ids)) for k in samples]
        with open_cache(self._about(variant, len(places))) as store:
            todo = [(i, k) for i, k in places if (ids[i], k) not in store.found]
            if todo:
                engine = self._engine(len(places))
                if not store.is_of(engine.describe()):
                    todo = places.copy()
                    store.begin(engine.describe())
                todo.sort(key=lambda at: judged[at[0]]["task"])  # answers of one length: no batch waits for a long one
                prompts = PromptList(variant, asked.rows, todo)
                self._generate(engine, prompts, store, [(ids[i], k) for i, k in todo], judged)
            elif store.found:
                print(f"{self.subject.label}: {variant.title}, all {len(places)} answers are there already", flush=True)
                if self.subject.is_remembered_by_address:
                    print("  of this server: where it has other weights by now, set R1VLM_CACHE to a new folder")
            messages = [variant.message(judged[i], store.found[ids[i], k]) for i, k in places]
            answers = Answers(messages, store.engine, store.seconds)
        return answers, score([judged[i] for i, _ in places], messages)

    def _about(self, variant: Variant, count: int) -> dict[str, Any]:
        """Everything that determines the answers, the kind of device apart."""
        sampling = self.plan.sampling
        return {
            "model": self.subject.fingerprint,
            "data": self.plan.dataset.fingerprint,
            "variant": variant.name,
            "max_new_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "engine": backend_versions(choose_backend(self.plan.engine, self.subject, count)),
        }

    def _engine(self, count: int) -> Backend:
        if self.loaded is None:
            self.loaded = load(self.plan, self.subject, count)
        return self.loaded

    def _generate(
        self,
        engine: Backend,
        prompts: PromptList,
        store: CompletionCache,
        places: Sequence[SampleKey],
        judged: Sequence[Question],
    ) -> None:
        """Ask, and keep each answer, under a progress bar that shows the accuracy so far."""
        variant, right, started = prompts.variant, 0.0, time.perf_counter()
        what = self.subject.label if variant.name == "r1" else f"{self.subject.label}, {variant.title}"
        try:
            with tqdm(total=len(prompts), desc=what, unit="question") as progress:
                for done, (at, completion) in enumerate(engine.answer(prompts), start=1):
                    store.add(places[at], completion)
                    question = judged[prompts.places[at][0]]
                    right += score_one(question, variant.message(question, completion))[ACCURACY]
                    low, high = wilson(right / done, done)
                    shown = f"accuracy {right / done:.1%} ({100 * low:.0f} to {100 * high:.0f})"
                    progress.set_postfix_str(shown, refresh=False)
                    progress.update()
        finally:
            store.took(time.perf_counter() - started)


def load(plan: EvalPlan, subject: ModelSource, count: int) -> Backend:
    """The engine that the plan asks for, ready to answer."""
    name = choose_backend(plan.engine, subject, count)
    if name == "openai":
        from evaluation.backends.openai import AT_ONCE, connect

        return connect(str(subject.endpoint), subject.name, plan.sampling, plan.batch_size or AT_ONCE)
    if name == "vllm":
        from evaluation.backends import vllm as vllm_backend

        return vllm_backend.load(subject.path, plan.sampling)
    from evaluation.backends import transformers as transformers_backend

    return transformers_backend.load(subject.path, plan.sampling, plan.batch_size or transformers_backend.BATCH)
