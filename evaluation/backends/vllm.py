"""vLLM generates the answers: in this process on one GPU or a CPU, or in a process a GPU.

`vllm.LLM` has no data parallelism of its own for dense models (0.31 refuses `data_parallel_size`, and refers to a
process for each copy): the copies share nothing, so each is a plain `vllm.LLM` that sees one GPU.
"""

from __future__ import annotations

import multiprocessing
import os
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen import r1_format
from datagen.common.errors import UserError
from datagen.hub.chat_template import check_history, check_several_images, stop_token_ids
from datagen.hub.checkpoint import check_checkpoint, silence_transformers
from datagen.interaction import image_url_part
from evaluation.backends.base import Prompt, Sampling, backend_versions

BATCH_SIZE = 512  # prompts that vLLM schedules at a time; what is done is kept after each


@dataclass(frozen=True)
class VLLMBackend:
    """A loaded `vllm.LLM`, its chat template, the sampling parameters for a seed, and the device it runs on."""

    llm: Any
    template: str
    parameters: Callable[[int], Any]
    device: str

    def describe(self) -> dict[str, str]:
        """Name, versions and device."""
        return {**backend_versions("vllm"), "device": self.device}

    def notes(self) -> list[str]:
        """None: every question is asked as it is meant."""
        return []

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, str]]:
        """(index in `prompts`, what was generated), as each batch is done."""
        for start in range(0, len(prompts), BATCH_SIZE):
            batch = [prompts[i] for i in range(start, min(start + BATCH_SIZE, len(prompts)))]
            (opening,) = {prompt.opening for prompt in batch}
            outputs = self.llm.chat(
                [prompt.conversation(image_url_part) for prompt in batch],
                [self.parameters(prompt.seed) for prompt in batch],
                use_tqdm=False,
                chat_template=r1_format.with_opening(self.template)
                if opening
                else r1_format.without_opening(self.template),
                chat_template_content_format="openai",
            )
            yield from enumerate((output.outputs[0].text for output in outputs), start)


class DataParallelVLLM:
    """Copies of a checkpoint, each in a process with an environment such as `{"CUDA_VISIBLE_DEVICES": "0"}`.

    A copy that is done with a batch gets the next one. The processes end with this object, which frees their memory
    for a second model.

    Raises:
        UserError: where vLLM can't load it.
    """

    def __init__(
        self,
        folder: Path,
        sampling: Sampling,
        environments: Sequence[Mapping[str, str]],
        turns: int = 1,
        shown: int = 1,
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process can't use CUDA
        self._pools = [ProcessPoolExecutor(1, context) for _ in environments]
        self._shutdown = weakref.finalize(self, _shutdown, self._pools)
        started = [
            pool.submit(_load_copy, folder, sampling, environment, turns, shown)
            for pool, environment in zip(self._pools, environments, strict=True)
        ]
        try:
            self._description, *_ = [future.result() for future in started]
        except BaseException:
            self._shutdown()
            raise

    def describe(self) -> dict[str, str]:
        """Name, versions and device. The number of copies is left out: it changes no answer."""
        return self._description

    def notes(self) -> list[str]:
        """None: every question is asked as it is meant."""
        return []

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, str]]:
        """(index in `prompts`, what was generated), as each batch is done."""
        size = max(1, min(BATCH_SIZE, -(-len(prompts) // len(self._pools))))
        starts = iter(range(0, len(prompts), size))
        idle, running = [*self._pools], dict[Future[list[str]], tuple[ProcessPoolExecutor, int]]()
        while True:
            while idle and (start := next(starts, None)) is not None:
                pool = idle.pop()
                batch = [prompts[i] for i in range(start, min(start + size, len(prompts)))]
                running[pool.submit(_generate_with_copy, batch)] = pool, start
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                pool, start = running.pop(done)
                idle.append(pool)
                yield from enumerate(done.result(), start)


_copy: list[VLLMBackend] = []  # in a process of `DataParallelVLLM`, its copy of the checkpoint


def _load_copy(
    folder: Path, sampling: Sampling, environment: Mapping[str, str], turns: int, shown: int
) -> dict[str, str]:
    os.environ.update(environment)
    _copy.append(load_single(folder, sampling, turns, shown))
    return _copy[0].describe()


def _generate_with_copy(prompts: list[Prompt]) -> list[str]:
    return [text for _, text in _copy[0].generate(prompts)]


def _shutdown(pools: list[ProcessPoolExecutor]) -> None:
    for pool in pools:
        pool.shutdown(cancel_futures=True)


def load(folder: Path, sampling: Sampling, turns: int = 1, shown: int = 1) -> VLLMBackend | DataParallelVLLM:
    """The checkpoint in `folder`: on all GPUs (one copy each), or on the CPU in float32.

    It says at most `turns` messages in a conversation, and a question shows at most `shown` images.

    Raises:
        UserError: where vLLM can't load it.
    """
    import torch

    gpus = gpu_ids(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if len(gpus) < 2:
        return load_single(folder, sampling, turns, shown)
    return DataParallelVLLM(folder, sampling, [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus], turns, shown)


def gpu_ids(count: int, visible: str | None) -> list[str]:
    """What to set `CUDA_VISIBLE_DEVICES` to for one GPU, for each of the `count` of this process.

    `visible` is its own `CUDA_VISIBLE_DEVICES`.
    """
    return [gpu.strip() for gpu in visible.split(",")][:count] if visible else [str(gpu) for gpu in range(count)]


def load_single(folder: Path, sampling: Sampling, turns: int = 1, shown: int = 1) -> VLLMBackend:
    """The checkpoint in `folder`, in this process: on the first GPU, or on the CPU in float32.

    Raises:
        UserError: where vLLM can't load it.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    silence_transformers()
    processor = check_checkpoint(folder)  # vLLM's own errors come late, and are many lines
    if turns > 1:
        check_history(folder, processor)
    if shown > 1:
        check_several_images(processor, shown)
    import torch

    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM, SamplingParams

    device: dict[str, Any] = {} if cuda else {"dtype": "float32", "enforce_eager": True}
    images = {"image": shown + turns - 1, "video": 0}  # those of the question, and one before each further message
    try:
        llm = LLM(str(folder), limit_mm_per_prompt=images, trust_remote_code=False, seed=0, **device)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder} can't be loaded by vLLM: {reason}") from error
    banned = r1_format.vision_token_ids(processor.tokenizer.get_vocab())
    stops = stop_token_ids(processor)  # vLLM itself adds those of generation_config.json

    def parameters(seed: int) -> Any:
        return SamplingParams(
            temperature=sampling.temperature,
            max_tokens=sampling.max_new_tokens,
            logit_bias=dict.fromkeys(banned, -100.0),
            stop_token_ids=stops,
            seed=seed if sampling.temperature else None,
        )

    return VLLMBackend(llm, processor.chat_template, parameters, "cuda" if cuda else "cpu")
