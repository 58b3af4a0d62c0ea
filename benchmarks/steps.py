"""Steps of GRPO, timed: those of r1vlm's stage, and those of a script written straight from TRL's documentation.

Each way runs in a fresh process that waits for its turn before every step, so that ways can alternate step by step. A
step lasts from the callback at its begin to that of the next: fetching the questions, generation, rewards, loss,
optimizer, logging and what our callbacks do are all in it. Nothing is saved.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from datagen.dataset.reader import open_dataset
from datagen.r1_format import full_message, vision_token_ids
from datagen.registry import TASKS, reward_names
from datagen.task import reward_hash
from training.config import StageConfig

# Its `seconds`, those of `generation` and of the `sync` of weights in it, its tokens, and the mean `reward`.
Step = dict[str, Any]


def make_run(model: Path, data: Path, out: Path, settings: dict[str, Any], hardware: dict[str, Any]) -> StageConfig:
    """A run of GRPO on all tasks of a dataset folder, as `r1vlm-train` would make it."""
    built = open_dataset(data)
    tasks = [task.name for task in built.spec.tasks]
    hashes = {task: reward_hash(TASKS[task]) for task in tasks}
    return StageConfig(
        "grpo", str(model), built.name, tasks, str(out), 0, settings, built.fingerprint, hashes, hardware
    )


class Measured(Exception):  # noqa: N818 - no error
    """The steps are measured. What would follow are checkpoints, which are no part of a step."""


class Meter:
    """Times the steps of a GRPO trainer of TRL: `turn` gets each as it ends, and returns when the next may begin."""

    def __init__(self, count: int, turn: Callable[[Step], None]) -> None:
        self.count = count
        self.turn = turn
        self.started = time.perf_counter()
        self.step: Step = {}
        self.done = -1

    def attach(self, trainer: Any) -> None:
        """Time this trainer's steps, the generation in them, and the syncs of weights with vLLM in that."""
        from transformers import TrainerCallback

        meter = self

        class Boundary(TrainerCallback):  # type: ignore[misc]
            def on_log(self, *_: Any, logs: dict[str, Any], **__: Any) -> None:
                meter.step["reward"] = logs.get("reward")

            def on_step_begin(self, *_: Any, **__: Any) -> None:
                meter.boundary()

        trainer.add_callback(Boundary())
        trainer._generate = self.timed("generation", trainer._generate, self.count_tokens)
        self.image_token = trainer.processing_class.image_token_id
        if trainer.use_vllm:
            trainer.vllm_generation.sync_weights = self.timed("sync", trainer.vllm_generation.sync_weights)

    def timed(self, name: str, work: Callable[..., Any], then: Callable[[Any], None] | None = None) -> Any:
        """`work`, whose seconds are added to the step's `name`."""

        def call(*words: Any, **options: Any) -> Any:
            started = now()
            answer = work(*words, **options)
            self.step[name] = self.step.get(name, 0.0) + now() - started
            if then is not None:
                then(answer)
            return answer

        return call

    def count_tokens(self, generated: Any) -> None:
        """Note the lengths of a step's prompts and completions, and how many tokens of them are images."""
        prompts, completions, *_ = generated
        self.step |= {"prompt": [len(ids) for ids in prompts], "completion": [len(ids) for ids in completions]}
        self.step["image"] = [list(ids).count(self.image_token) for ids in prompts]

    def boundary(self) -> None:
        """One step ends and the next begins.

        Raises:
            Measured: when there were enough.
        """
        self.turn(self.step | {"seconds": now() - self.started})
        self.done += 1
        if self.done == self.count:
            raise Measured
        self.step, self.started = {}, now()


def now() -> float:
    """The clock, when a GPU has done what it was asked."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def plain(run: StageConfig, meter: Meter) -> None:
    """GRPO as a script has it that is written from TRL's documentation, with our rewards as reward functions.

    https://huggingface.co/docs/trl/grpo_trainer, "Using a custom reward function" and "Vision-Language Model (VLM)
    Training". All it adds is that no image token may be sampled: TRL would crash on the first.
    """
    import torch
    from datasets import load_dataset
    from transformers import AutoProcessor
    from trl import GRPOConfig, GRPOTrainer

    def reward_function(name: str) -> Callable[..., list[float]]:
        def reward(completions: list[Any], task: list[str], **columns: Any) -> list[float]:
            given = {key: values for key, values in columns.items() if isinstance(values, list)}
            examples = [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=True)]
            texts = [full_message(completion[0]["content"]) for completion in completions]
            return [
                TASKS[one].rewards[name](text, example)
                for one, text, example in zip(task, texts, examples, strict=True)
            ]

        reward.__name__ = name
        return reward

    vocabulary = AutoProcessor.from_pretrained(run.model).tokenizer.get_vocab()
    trainer = GRPOTrainer(
        model=run.model,
        reward_funcs=[reward_function(name) for name in reward_names(run.tasks)],
        args=GRPOConfig(
            output_dir=run.out,
            seed=run.seed,
            use_cpu=not torch.cuda.is_available(),
            logging_steps=1,
            generation_kwargs={"suppress_tokens": vision_token_ids(vocabulary)},
            **run.settings,
            **run.hardware.get("settings", {}),
        ),
        train_dataset=load_dataset(str(open_dataset(run.data).folder), "r1", split="train"),
    )
    meter.attach(trainer)
    trainer.train()


def draw_for_all(probabilities: Any, rows: Any, count: int) -> Any:
    """The tokens that TRL's path samples with the same seed: it draws also for completions that have ended."""
    import torch

    noise = torch.empty(count, probabilities.shape[1], device=probabilities.device).exponential_()
    return (probabilities / noise[rows]).argmax(-1)


def ours(run: StageConfig, meter: Meter) -> None:
    """The whole stage, as `r1vlm-train` runs it."""
    from training import pipeline
    from training.trainers import grpo

    pipeline.silence_libraries()
    train = grpo.run_trainer

    def measured(trainer: Any, out: Path) -> Path:
        trainer.draw = draw_for_all
        meter.attach(trainer)
        return train(trainer, out)

    Path(run.out).mkdir(parents=True, exist_ok=True)
    with patch.object(grpo, "run_trainer", measured):
        grpo.train(run, preflight=True)


WAYS: dict[str, Callable[[StageConfig, Meter], None]] = {"plain": plain, "ours": ours}


class Worker:
    """A way in a process of its own. A step begins when it is asked for.

    What the process prints goes to `log.txt` in the run's folder. Use it as a context manager: on leaving, whatever
    is left of the process is ended.

    Raises:
        WorkerError: here and in `step`, where the way ends with an error or takes too long.
    """

    def __init__(self, way: str, run: StageConfig, count: int, seconds: float = 600) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.deadline = time.monotonic() + seconds
        self.log = Path(run.out) / "log.txt"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.process = context.Process(target=_work, args=(theirs, way, run, count, self.log))

    def __enter__(self) -> Worker:
        self.process.start()
        self.start = self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.process.join(timeout=30)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def step(self) -> Step:
        """Take a step, alone or while other workers wait; returns it when it is done."""
        self.connection.send(None)
        return self._answer()

    def memory(self) -> dict[str, int]:
        """Bytes of the GPU at most, after the last step: what tensors took, and all of the GPU that was in use."""
        return self._answer()

    def _answer(self) -> Any:
        if not self.connection.poll(max(0.0, self.deadline - time.monotonic())):
            self.process.kill()
            raise WorkerError(f"took too long (see {self.log})")
        try:
            answer = self.connection.recv()
        except EOFError:
            self.process.join()
            raise WorkerError(f"ended with exit code {self.process.exitcode} (see {self.log})") from None
        if isinstance(answer, WorkerError):
            raise answer
        return answer


class WorkerError(Exception):
    """A way of training that did not do its steps."""


def _work(connection: Connection, way: str, run: StageConfig, count: int, log: Path) -> None:
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)

    def turn(step: Step) -> None:
        connection.send(step)
        if meter.done + 1 < count:
            connection.recv()

    meter = Meter(count, turn)
    try:
        with used_memory() as used:
            WAYS[way](run, meter)
    except Measured:
        connection.send(used)
    except Exception as error:
        connection.send(WorkerError(f"{type(error).__name__}: {error}"))
        raise


@contextmanager
def used_memory() -> Iterator[dict[str, int]]:
    """Watches the GPU, where there is one: bytes at most, known when the block ends.

    `tensors` is what torch's allocator had given out, with all that lies outside of it (CUDA's context, kernels), and
    without what it keeps in reserve; `in_use` is the whole GPU's.
    """
    import torch

    found: dict[str, int] = {}
    if not torch.cuda.is_available():
        yield found
        return
    done, most, outside = threading.Event(), 0, 0

    def watch() -> None:
        nonlocal most, outside
        while not done.wait(0.1):
            free, total = torch.cuda.mem_get_info()
            most = max(most, total - free)
            outside = total - free - torch.cuda.memory_reserved()

    torch.cuda.init()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        found |= {"tensors": torch.cuda.max_memory_allocated() + outside, "in_use": most}


def ratios(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """(median of the paired ratios, and its 95% interval by the bootstrap over pairs)."""
    paired = np.array(ours) / np.array(theirs)
    draws = np.random.default_rng(0).choice(paired, (10_000, len(paired)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(np.median(paired)), float(low), float(high)
