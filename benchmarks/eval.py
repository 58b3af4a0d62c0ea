"""Speed of `r1vlm-eval`: `python -m benchmarks.eval CHECKPOINT DATA`, beside a plain loop and beside the engines alone.

The plain loop is how small repositories evaluate: one question, one `model.generate`. Everything is measured in one
run; loading a model is left out everywhere. Ours is all of asking: prompts, progress bar, answers kept, rewards.
vLLM and lmms-eval are measured where they are installed; of lmms-eval prompts and answers, without the rewards.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from datagen.export.lmms_eval import write_tasks
from datagen.interaction import Episode
from datagen.r1_format import full_message, with_image
from evaluation.backends.base import Backend, Prompt
from evaluation.backends.transformers import BATCH_SIZE, TransformersBackend
from evaluation.config import EvalConfig, EvalPlan, make_plan
from evaluation.generation import AnswerGenerator, PromptList, load_backend, select_questions
from evaluation.prompt_variants import R1

QUESTIONS = int(os.environ.get("QUESTIONS", "1000"))
SAMPLE = 100  # questions of the plain loop
ROUNDS = 5  # of lmms-eval and ours, in turns


def plan_of(checkpoint: str, data: str, **more: Any) -> EvalPlan:
    """The plan of an evaluation; `more` are fields of `EvalConfig`."""
    out = Path(tempfile.mkdtemp())
    config = EvalConfig(checkpoint=checkpoint, data=data, limit=QUESTIONS, max_new_tokens=128, out=out, **more)
    return make_plan(config)


def plainly(engine: TransformersBackend, prompts: PromptList) -> float:
    """Questions a second, one at a time."""
    import torch

    started = time.perf_counter()
    for at in range(SAMPLE):
        inputs = engine.processor.apply_chat_template(
            with_image(prompts[at].messages, *({"type": "image", "image": image} for image in prompts[at].shown)),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(engine.model.device)
        with torch.inference_mode():
            output = engine.model.generate(**inputs)
        engine.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return SAMPLE / (time.perf_counter() - started)


class Timed:
    """An engine, and how long it has been at work."""

    def __init__(self, engine: Backend) -> None:
        self.engine = engine
        self.seconds = 0.0

    def describe(self) -> dict[str, str]:
        """What the engine says of itself."""
        return self.engine.describe()

    def notes(self) -> list[str]:
        """What the engine notes."""
        return self.engine.notes()

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, str]]:
        """What the engine answers."""
        answers = self.engine.generate(prompts)
        while True:
            started = time.perf_counter()
            try:
                answer = next(answers)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - started
            yield answer


def measure(plan: EvalPlan) -> tuple[Backend, PromptList, float, float, list[str]]:
    """(engine, prompts, seconds of the engine alone, seconds of all of asking, messages), after a batch to warm up."""
    questions = select_questions(plan)
    generator = AnswerGenerator(plan, plan.model)
    engine = load_backend(plan, plan.model, len(questions.ids))
    prompts = PromptList(R1, questions.rows, [(i, 0) for i in range(len(questions.ids))], defaultdict(Episode))
    list(engine.generate(replace(prompts, indices=prompts.indices[-64:])))
    generator.backend = timed = Timed(engine)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["R1VLM_CACHE"] = cache
        started = time.perf_counter()
        answers, _ = generator.generate(R1, questions)
        ours = time.perf_counter() - started
    return engine, prompts, timed.seconds, ours, [episode.final for episode in answers.episodes]


@contextmanager
def serving(checkpoint: str, *options: str) -> Iterator[str]:
    """The address of vLLM's own server on loopback, which runs for as long as the block does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint, "--host", "127.0.0.1"]
    words += ["--port", str(port), "--dtype", "float32", "--enforce-eager", "--limit-mm-per-prompt", '{"image": 1}']
    words += options
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    if server.poll() is not None:
                        raise RuntimeError("vLLM's server ended before it answered") from None
                    time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def other(checkpoint: str, plan: EvalPlan, engine: TransformersBackend, *, same: bool) -> tuple[float, list[str]]:
    """lmms-eval on the exported tasks: (seconds of asking alone, messages in the order of ours), after a warm-up.

    It loads every model in bfloat16; `same` converts it to our model's dtype. Its tokens and its pixels are ours.
    """
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import get_model
    from lmms_eval.tasks import TaskManager
    from transformers import AutoProcessor

    size = AutoProcessor.from_pretrained(checkpoint).image_processor.size
    words = f"pretrained={checkpoint},device={engine.device},device_map={engine.device}"
    words += f",min_pixels={size['shortest_edge']},max_pixels={size['longest_edge']}"
    seconds = 0.0

    def timed(generate: Callable[[list[Any]], Any], requests: list[Any]) -> Any:
        nonlocal seconds
        started = time.perf_counter()
        answers = generate(requests)
        seconds = time.perf_counter() - started
        return answers

    with tempfile.TemporaryDirectory() as folder:
        group, names = write_tasks(plan.dataset, Path(folder))
        tasks = TaskManager(include_path=folder, include_defaults=False)
        for limit in (64 // len(names), QUESTIONS // len(names)):
            model = get_model("qwen2_5_vl").create_from_arg_string(
                words, {"batch_size": BATCH_SIZE}
            )  # it is gone afterwards
            if same:
                model.model.to(engine.model.dtype).load_state_dict(engine.model.state_dict())
            model.generate_until = partial(timed, model.generate_until)
            found = simple_evaluate(
                model, tasks=[group], task_manager=tasks, limit=limit, gen_kwargs="max_new_tokens=128", log_samples=True
            )
    messages = {
        sample["doc"]["id"]: full_message(sample["filtered_resps"][0][0])
        for samples in found["samples"].values()
        for sample in samples
    }
    return seconds, [messages[name] for name in select_questions(plan).ids]


def main() -> None:
    """Print the table."""
    checkpoint, data = (str(Path(word).resolve()) for word in sys.argv[1:])
    print("| engine | questions/s | as a ratio to the plain loop | our share of the time | same completions |")
    print("|---|---:|---:|---:|---:|")
    plan = plan_of(checkpoint, data, engine="transformers")
    engine, prompts, alone, ours, expected = measure(plan)
    if not isinstance(engine, TransformersBackend):
        raise TypeError("the plain loop needs transformers' model")
    plain = plainly(engine, prompts)
    count = len(expected)

    def row(name: str, alone: float | None, seconds: float, messages: list[str]) -> str:
        same = sum(a == b for a, b in zip(messages, expected, strict=True)) / count
        share = "" if alone is None else f"{1 - alone / seconds:.1%}"
        return f"| {name} | {count / seconds:.1f} | {count / seconds / plain:.1f} | {share} | {same:.1%} |"

    print(row("transformers, batches of 128", alone, ours, expected), flush=True)
    if find_spec("vllm") is not None:
        _, _, alone, ours, messages = measure(plan_of(checkpoint, data, engine="vllm"))
        print(row("vLLM in this process", alone, ours, messages), flush=True)
        with serving(checkpoint) as endpoint:
            _, _, alone, ours, messages = measure(plan_of(checkpoint, data, endpoint=endpoint))
            print(row("vLLM's server, 32 at a time", alone, ours, messages), flush=True)
    if find_spec("lmms_eval") is not None:
        dtype = str(engine.model.dtype).removeprefix("torch.")
        pairs = []
        for _ in range(ROUNDS):
            theirs, messages = other(checkpoint, plan, engine, same=True)
            print(row(f"lmms-eval, batches of {BATCH_SIZE}, {dtype}", None, theirs, messages), flush=True)
            _, _, _, ours, messages = measure(plan_of(checkpoint, data, engine="transformers"))
            print(row("transformers, again", None, ours, messages), flush=True)
            pairs.append(theirs / ours)
        theirs, messages = other(checkpoint, plan, engine, same=False)
        print(row(f"lmms-eval, batches of {BATCH_SIZE}, bfloat16, as it loads it", None, theirs, messages), flush=True)
    print(f"| plain loop, {SAMPLE} questions | {plain:.1f} | 1.0 | | |")
    if find_spec("lmms_eval") is not None:
        low, middle, high = min(pairs), statistics.median(pairs), max(pairs)
        times = f"{middle:.2f} times ({low:.2f} to {high:.2f}, {ROUNDS} pairs)"
        print(f"\nOurs is {times} as fast as lmms-eval in {dtype}.")


if __name__ == "__main__":
    main()
