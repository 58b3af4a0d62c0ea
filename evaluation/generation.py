"""Generating completions: those that are cached are not generated again, and new ones are kept as they come."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from datagen.common.code_hash import code_hash
from datagen.common.errors import UserError
from datagen.dataset.reader import most_images
from datagen.interaction import Episode
from datagen.registry import find_task
from datagen.task import reward_hash, score
from evaluation.backends.base import Backend, NoAnswer, Prompt, backend_versions, choose_backend
from evaluation.completion_cache import CompletionCache, TurnKey, open_cache
from evaluation.completions import oddities
from evaluation.config import EvalPlan
from evaluation.metrics.scoring import ACCURACY, Question, Scored, score_episodes
from evaluation.metrics.statistics import wilson
from evaluation.model_source import ModelSource
from evaluation.prompt_variants import Row, Variant, unchanged

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
    """The questions of a plan, in the order of the dataset.

    Raises:
        UserError: where there are none.
    """
    split = plan.dataset.questions(plan.split)
    indices = [i for i, task in enumerate(split["task"]) if task in plan.tasks][: plan.limit]
    if not indices:
        raise UserError(
            f"the {plan.split} split of {plan.dataset.name} has no question of {', '.join(plan.tasks)}: name another "
            "with --task or --split"
        )
    rows = split.select(indices)
    return Questions(rows, rows.remove_columns(plan.dataset.spec.image_column).to_list(), set(split["id"]))


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


class Conversations:
    """The episodes about some questions, asked in one way; at first as far as their messages are in the cache.

    `live` are those that wait for a message, `reasons` say why some got none.
    """

    def __init__(
        self,
        variant: Variant,
        rows: Dataset,
        truths: Sequence[Question],
        indices: Iterable[Index],
        cache: CompletionCache,
    ) -> None:
        self.variant = variant
        self.rows = rows
        self.truths = truths
        self.cache = cache
        self.episodes = {index: Episode() for index in indices}
        self.reasons: list[str] = []
        self.live = [index for index in self.episodes if self._catch_up(index)]

    def prompts(self) -> PromptList:
        """What is asked next, in the order of `live`."""
        return PromptList(self.variant, self.rows, self.live, self.episodes)

    def take(self, index: Index, answer: str | NoAnswer) -> bool:
        """Keep an answer and go on; returns whether another message may follow. An episode ends where there is none."""
        if isinstance(answer, NoAnswer):
            self.reasons.append(answer.reason)
            self.episodes[index].messages.append(self.variant.full_message(self.truths[index[0]], ""))
            return False
        self.cache.add(self._key(index), answer)
        return self._go_on(index, answer)

    def correctness(self, index: Index) -> float:
        """Of an episode that is over."""
        truth = self.truths[index[0]]
        return score(find_task(truth["task"]), self.episodes[index], truth)[ACCURACY]

    def _catch_up(self, index: Index) -> bool:
        """Go on as far as messages are kept; returns whether another one is wanted."""
        while (text := self.cache.completions.get(self._key(index))) is not None:
            if not self._go_on(index, text):
                return False
        return True

    def _go_on(self, index: Index, text: str) -> bool:
        truth = self.truths[index[0]]
        message = self.variant.full_message(truth, text)
        return self.variant.goes_on(self.episodes[index], message, find_task(truth["task"]), self.rows, index[0])

    def _key(self, index: Index) -> TurnKey:
        return self.truths[index[0]]["id"], index[1], len(self.episodes[index].messages)


class AnswerGenerator:
    """A model that answers questions; its weights are loaded for the first question that is not cached."""

    def __init__(self, plan: EvalPlan, model: ModelSource) -> None:
        self.plan = plan
        self.model = model
        self.backend: Backend | None = None
        self.warnings: list[str] = []

    def generate(self, variant: Variant, questions: Questions) -> tuple[Answers, Scored]:
        """The answers to all questions, asked in one way, each as often as the plan says; and their scores.

        Raises:
            UserError: where no question got an answer, the model can't be loaded, or the cache is in use or can't be
                written.
        """
        truths = variant.ground_truths(questions.rows, questions.examples)
        indices = [(i, k) for i in range(len(truths)) for k in range(self.plan.sampling.samples)]
        with open_cache(self.cache_key(variant, questions.ids)) as cache:
            talks = Conversations(variant, questions.rows, truths, indices, cache)
            if talks.live:
                backend = self._load_backend(len(indices))
                if cache.backend != backend.describe():  # on another kind of device, for one
                    cache.reset(backend.describe())
                    talks = Conversations(variant, questions.rows, truths, indices, cache)
                self._play(backend, talks)
            elif cache.completions:
                print(f"{self.model.label}: {variant.title}, all {len(indices)} answers are there already", flush=True)
                if self.model.is_remembered_by_address:
                    print("  of this server: where it has other weights by now, set R1VLM_CACHE to a new folder")
            texts = [cache.completions.get((truths[i]["id"], k, 0), "") for i, k in indices]
            answers = Answers(list(talks.episodes.values()), cache.backend, cache.seconds, len(talks.reasons))
            self._warn(cache.notes)
        self._warn(self._doubts(variant, texts, talks.reasons))
        return answers, score_episodes([truths[i] for i, _ in indices], answers.episodes)

    def _doubts(self, variant: Variant, texts: Sequence[str], reasons: Sequence[str]) -> list[str]:
        """Sentences about answers that did not come, or may not be what the model has said.

        Raises:
            UserError: where no answer came at all.
        """
        label = self._label(variant)
        if reasons and len(reasons) == len(texts):
            raise UserError(f"{label}: no question got an answer: {reasons[0]}")
        # A model that runs here hides no reasoning. Trained to think first, it often says nothing at once: no oddity.
        looked_at = variant.opening or self.model.endpoint is not None
        doubts = oddities(texts, opened=variant.opening) if looked_at else []
        sentences = [f"{label}: {sentence}" for sentence in doubts]
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

    def cache_key(self, variant: Variant, ids: Sequence[str]) -> dict[str, Any]:
        """Everything that determines the completions about the questions `ids`, apart from the kind of device.

        A change of a name or a value here makes every completion that was cached before unreachable.
        """
        sampling = self.plan.sampling
        tools = [] if variant.first_message else [name for name in self.plan.tasks if find_task(name).interaction]
        return {
            "model": self.model.fingerprint,
            "data": self.plan.dataset.fingerprint,
            "variant": variant.name,
            "max_new_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "engine": backend_versions(choose_backend(self.plan.backend, self.model, len(ids) * sampling.samples)),
            **({"tools": {name: reward_hash(find_task(name)) for name in tools}} if tools else {}),
            **(changed_by(variant) if variant.transform is not unchanged else {}),
            **({"rows": list(ids)} if variant.others_shown else {}),
        }

    def _load_backend(self, prompts: int) -> Backend:
        if self.backend is None:
            self.backend = load_backend(self.plan, self.model, prompts)
            self._warn(self.backend.notes())
        return self.backend

    def _play(self, backend: Backend, talks: Conversations) -> None:
        """Ask for one message of each episode after the other, until all are over."""
        started = time.perf_counter()
        over = list[float]()
        try:
            while talks.live:
                self._ask(backend, talks, over)
        finally:
            talks.cache.add_seconds(time.perf_counter() - started)
            for sentence in backend.notes():
                talks.cache.add_note(sentence)

    def _ask(self, backend: Backend, talks: Conversations, over: list[float]) -> None:
        """Ask for the next message of all that are live, under a progress bar that shows the accuracy so far.

        `over` is the correctness of each episode that has ended.
        """
        asked, going = talks.live, set[Index]()
        with tqdm(total=len(asked), desc=self._label(talks.variant), unit="question") as progress:
            for position, answer in backend.generate(talks.prompts()):
                index = asked[position]
                if talks.take(index, answer):
                    going.add(index)
                else:
                    over.append(talks.correctness(index))
                    share = sum(over) / len(over)
                    low, high = wilson(share, len(over))
                    ended = f" of {len(over)} that ended" if going else ""  # those that end early are seldom right
                    accuracy = f"accuracy {share:.1%} ({100 * low:.0f} to {100 * high:.0f}){ended}"
                    progress.set_postfix_str(accuracy, refresh=False)
                progress.update()
        talks.live = [index for index in asked if index in going]


def changed_by(variant: Variant) -> dict[str, str]:
    """Which code changes the questions of a variant: that of r1vlm, and the dataset's where it draws other images."""
    drawn = {} if variant.drawn_by is None else {"drawn": code_hash({"drawn": variant.drawn_by}, "datagen")}
    return {"r1vlm": version("r1vlm"), **drawn}


def load_backend(plan: EvalPlan, model: ModelSource, prompts: int) -> Backend:
    """The backend that the plan chooses for a model and a number of prompts, ready to answer.

    Raises:
        UserError: where it can't load the model, or there is no such server.
    """
    name = choose_backend(plan.backend, model, prompts)
    turns = max(find_task(name).turns for name in plan.tasks)
    if name == "openai":
        from evaluation.backends import openai

        return openai.connect(str(model.endpoint), model.name, plan.sampling, plan.batch_size or openai.CONCURRENCY)
    if name == "vllm":
        from evaluation.backends import vllm

        several = plan.dataset.spec.several_images
        shown = most_images(plan.dataset.questions(plan.split)) if several else 1
        return vllm.load(model.path, plan.sampling, turns, shown)
    from evaluation.backends import transformers

    return transformers.load(model.path, plan.sampling, plan.batch_size or transformers.BATCH_SIZE, turns)
