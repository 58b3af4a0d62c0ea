"""What one CUDA GPU does, in at most 25 minutes, without a download: `python -m benchmarks.gpu --out results.json`.

Each part is written to the JSON file as soon as it is there, and one that fails with its error; the same command goes
on with the parts that are missing. Then the table is printed.

- `full`: GRPO of Qwen2.5-VL-3B's architecture with random weights on words (images of 54 tokens), transformers
  generating: time, tokens, MFU, and memory beside what `training/launch/memory.py` predicted. It is paired with a
  script straight from TRL's documentation, in fresh processes in the order script, ours, ours, script. Ours shares
  prompts, the script does not.
- `small-image`, `large-image`: the same on digits (9 tokens) and on words of large letters (864 tokens).
- `lora`: adapters alone, without the script.
- `vllm`: all weights, with vLLM in the same process. TRL alone trains on garbage there: nothing to pair it with.
- `digits`, `messages`: what `make demo` does, on this GPU.

With random weights hardly any completion ends before its limit, so that all steps are alike.

MFU (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B) is that of all of a step but the generation. A
step's work, in floating point operations, recomputation and padding not counted:

    6 x (weights of the language model's layers x tokens + weights of the output layer x completion tokens
         + weights of the vision tower x patches) + 6 x layers x heads x head size x sum of squared lengths

(causal attention: half of PaLM's 12; the vision tower's attention is left out).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.steps import Step, Worker, WorkerError, make_run, ratios
from datagen.common.errors import UserError
from datagen.common.files import write_json
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reader import open_dataset
from training.launch.memory import GIB, Shape, built_in, shape_of
from training.launch.planner import LaunchPlan, Machine, PlanRequest, check_fits, choose_plan, largest_question
from training.launch.presets import GPU, Generation, visible_gpus

MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
PEAKS = {"H100 80GB HBM3": 989.4e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H200": 989.4e12, "A100": 311.9e12}
# Dense bfloat16 operations a second, as NVIDIA's data sheets have them. MFU is left out on other GPUs.
WORDS = DatasetConfig(dataset="words", size=500, seed=0)
DATASETS = {
    "small-image": DatasetConfig(dataset="digits", size=500, seed=0),
    "large-image": DatasetConfig(dataset="words", size=500, seed=0, options={"cell": 112}),
}  # of the parts that have others than words


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    steps: int
    rounds: int
    tokens: int  # of a completion
    batch: int  # completions of a step: `batch` x 4 of accumulation
    text: dict[str, Any]
    vision: dict[str, Any]
    build: list[str]
    train: list[str]
    score: list[str]


REAL = Size(3, 2, 256, 8, {}, {}, [], [], ["--max-new-tokens", "128"])
TINY = Size(
    *(1, 1, 96, 2),
    {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 64}
    | {"vocab_size": 2048},
    {"hidden_size": 64, "intermediate_size": 64, "depth": 1, "num_heads": 2, "out_hidden_size": 128}
    | {"fullatt_block_indexes": [0]},
    ["--size", "60"],
    ["--traces", "4", "--steps", "2", "--set", "per_device_train_batch_size=8"],
    ["--max-new-tokens", "16", "--limit", "8"],
)


def settings(size: Size, *, bf16: bool) -> dict[str, Any]:
    """Of GRPO, the same for all ways."""
    return {
        "per_device_train_batch_size": size.batch,
        "gradient_accumulation_steps": 4,
        "num_generations": 8,
        "max_completion_length": size.tokens,
        "learning_rate": 1e-6,
        "beta": 0.0,
        "loss_type": "dr_grpo",
        "bf16": bf16,
        "gradient_checkpointing": True,
        "max_steps": 1000,  # it is stopped before
        "save_steps": 1000,
    }


def make_model(folder: Path, size: Size) -> None:
    """Save a checkpoint of the architecture with random weights in bfloat16, made on the GPU where there is one."""
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from training.builtin_models.architecture import SPECIAL_TOKENS, make_processor

    real = built_in()[MODEL].config
    text, vision = real["text_config"] | size.text, real["vision_config"] | size.vision
    third = text["head_dim"] // 8
    processor = make_processor()
    state = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    pieces = state["model"]["vocab"]
    # A name for every token, so that what random weights say can be decoded. No text has these characters.
    pieces += [[f"\ue000{i}", -1.0] for i in range(len(pieces), text["vocab_size"])]
    processor.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token=processor.tokenizer.eos_token,
        pad_token=processor.tokenizer.pad_token,
        additional_special_tokens=list(SPECIAL_TOKENS),
        clean_up_tokenization_spaces=False,
    )
    processor.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}  # Qwen's
    token = processor.tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config=text
        | {
            "max_position_embeddings": 128000,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [third, third * 3 // 2, third * 3 // 2],
            },
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=real["tie_word_embeddings"],
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = [token("<|im_end|>"), token("<|endoftext|>")]
    model.generation_config.pad_token_id = token("<|endoftext|>")
    processor.save_pretrained(folder)
    model.save_pretrained(folder)


@dataclass(frozen=True)
class Bench:
    """Where a benchmark is run, on what, how large, and until when (on the clock of `time.monotonic`)."""

    work: Path
    gpu: GPU | None
    size: Size
    deadline: float

    @property
    def left(self) -> float:
        """Seconds.

        Raises:
            WorkerError: where none is.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise WorkerError("there was no time left: run it again for this part")
        return left

    def prepared(self, name: str) -> tuple[Path, Path]:
        """The folders of the random model and of a part's dataset, made where they are missing."""
        drawn = DATASETS.get(name, WORDS)
        model, data = self.work / "model", self.work / f"{drawn.dataset}-{drawn.options.get('cell', 0)}"
        if not (model / "config.json").exists():  # in a process of its own, which gives the GPU back
            process = multiprocessing.get_context("spawn").Process(target=make_model, args=(model, self.size))
            process.start()
            process.join(self.left)
            if process.exitcode != 0:
                process.kill()
                raise WorkerError("the random model could not be made: see above")
        if not data.exists():
            build(drawn, data, workers=2)
        return model, data

    def planned(self, model: Path, data: Path, lora: dict[str, Any], generation: Generation) -> LaunchPlan:
        """The plan of `r1vlm-train` for this GPU.

        Raises:
            UserError: where it does not fit.
        """
        spec = open_dataset(data).spec
        asked = PlanRequest(
            model=str(model),
            shape=shape_of(str(model)),
            settings=settings(self.size, bf16=self.gpu is not None) | lora,
            question=largest_question(spec.name, [task.name for task in spec.tasks], str(data)),
            words=[],
            out=self.work,
            fixed=True,
        )
        where = "cpu" if self.gpu is None else "1gpu"
        machine = Machine(self.gpu.memory if self.gpu else None)
        plan, _ = choose_plan(asked, where, machine, [self.gpu] if self.gpu else [], generation=generation)
        check_fits(plan)
        return plan


def steps_of(
    bench: Bench, name: str, ways: list[str], lora: dict[str, Any], generation: Generation = "transformers"
) -> dict[str, Any]:
    """The steps of some ways, each in a fresh process, one after the other, and what follows from them."""
    from training.launch.launch_config import hardware_record

    model, data = bench.prepared(name)
    plan = bench.planned(model, data, lora, generation)
    taken: dict[str, list[Step]] = {way: [] for way in ways}
    memory: dict[str, int] = {}
    starts = []
    for i, way in enumerate(ways):
        settings = plan.request.settings | plan.settings
        run = make_run(model, data, bench.work / f"{name}-{i}", settings, hardware_record(plan))
        if way == "plain":
            run = replace(run, hardware={})
        with Worker(way, run, 1 + bench.size.steps, bench.left) as worker:
            starts.append(worker.start["seconds"])
            taken[way] += [worker.step() for _ in range(1 + bench.size.steps)][1:]  # the first warms up
            found = worker.memory()
        memory = found if way == "ours" else memory
    result = {
        "settings": plan.request.settings | plan.settings,
        "seconds_to_start": starts,
        "ways": {way: summary(steps, plan.request.shape, bench.gpu) for way, steps in taken.items()},
        "memory": beside_predicted(plan, memory, generation),
    }
    if "plain" in taken:
        seconds = [[step["seconds"] for step in taken[way]] for way in ("ours", "plain")]
        result["ratio"] = dict(zip(("median", "low", "high"), ratios(*seconds), strict=True))
    return result


def summary(steps: list[Step], shape: Shape, gpu: GPU | None) -> dict[str, Any]:
    """The steps themselves, and the medians of what follows from them."""
    rows = []
    for step in steps:
        loss = step["seconds"] - step["generation"]
        peak = next((rate for name, rate in PEAKS.items() if gpu and name in gpu.name), None)
        rows.append(
            {
                "seconds": step["seconds"],
                "generation": step["generation"],
                "sync": step.get("sync", 0.0),
                "loss": loss,
                "completion_tokens": sum(step["completion"]),
                "prompt_tokens": sum(step["prompt"]),
                "image_tokens": sum(step["image"]),
                "tokens_per_second": sum(step["completion"]) / step["generation"],
                "operations": operations(step, shape),
                "mfu": operations(step, shape) / loss / peak if peak else None,
            }
        )
    medians = {
        key: None if value is None else statistics.median(row[key] for row in rows) for key, value in rows[0].items()
    }
    return {"median": medians, "steps": rows}


def operations(step: Step, shape: Shape) -> float:
    """Floating point operations of a step's forward and backward passes, by the formula above."""
    lengths = [prompt + completion for prompt, completion in zip(step["prompt"], step["completion"], strict=True)]
    wide, narrow = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    layers = shape.layers * (2 * shape.hidden * (wide + narrow) + 3 * shape.hidden * shape.intermediate)
    patches = sum(step["image"]) * shape.config["vision_config"]["spatial_merge_size"] ** 2
    weights = layers * sum(lengths) + shape.embedding * sum(step["completion"]) + shape.vision_parameters * patches
    return 6 * weights + 6 * shape.layers * wide * sum(length**2 for length in lengths)


def beside_predicted(plan: LaunchPlan, found: dict[str, int], generation: Generation) -> dict[str, Any] | None:
    """GiB of the GPU, predicted and found; None without a GPU.

    With transformers what tensors took, with what torch does not know of; with vLLM, whose sleeping weights torch
    still counts, all of the GPU that was in use.
    """
    if not found:
        return None
    peak = found["in_use" if generation == "colocate" else "tensors"]
    return {
        "predicted": plan.memory.peak / GIB,
        "measured": peak / GIB,
        "ratio": peak / plan.memory.peak,
        "in_use": found["in_use"] / GIB,
    }


def paired(bench: Bench, name: str) -> dict[str, Any]:
    """All weights, beside TRL's trainer alone."""
    return steps_of(bench, name, ["plain", "ours", "ours", "plain"][: 2 * bench.size.rounds], {})


def lora(bench: Bench) -> dict[str, Any]:
    """Adapters alone."""
    return steps_of(bench, "lora", ["ours"], {"lora": {"r": 16, "target_modules": "all-linear"}})


def with_vllm(bench: Bench) -> dict[str, Any]:
    """All weights, with vLLM's generation."""
    if find_spec("vllm") is None:
        raise UserError("vLLM is not installed")
    return steps_of(bench, "vllm", ["ours"], {}, "colocate")


def digits(bench: Bench) -> dict[str, Any]:
    """`make demo`."""
    return pipeline(bench, "digits", "small", [], [])


def messages(bench: Bench) -> dict[str, Any]:
    """`make demo TASK=messages`."""
    drawn = ["--words", "1..1", "--letters", "3..5", "--alphabet", "8"]
    return pipeline(bench, "messages", "small-ciphers", drawn, ["--traces", "32"])


def pipeline(bench: Bench, name: str, model: str, drawn: list[str], trained: list[str]) -> dict[str, Any]:
    """Data, cold start, GRPO, and before and after, as the Makefile has it; goes on with what was begun."""
    work, size = bench.work / f"demo-{name}", bench.size
    data, train = work / "data", work / "train"
    commands: dict[str, list[str | Path]] = {
        "build": ["datagen.cli", "build", name, *drawn, *size.build, "--out", data],
        "train": ["training.cli", name, "--model", model, "--data", data, "--out", train, "--vllm", "off", "--resume"],
        "eval": ["evaluation.cli", train / "final", "--baseline", train / "cold-start" / "final", "--out", work],
    }
    commands["train"] += ["--no-report", *trained, *size.train]
    commands["eval"] += ["--engine", "transformers", *size.score]
    seconds = {}
    for stage, words in commands.items():
        started = time.monotonic()
        called = [sys.executable, "-m", *map(str, words)]
        try:
            done = subprocess.run(called, check=False, capture_output=True, text=True, timeout=bench.left)
        except subprocess.TimeoutExpired:
            raise WorkerError(f"{stage} took too long") from None
        if done.returncode != 0:
            raise WorkerError(f"{stage} ended with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
        seconds[stage] = time.monotonic() - started
    comparison = json.loads((work / "comparison.json").read_text(encoding="utf-8"))
    keys = ("n", "before", "before_ci95", "after", "after_ci95", "difference", "difference_ci95", "p_value")
    return {"seconds": seconds} | {key: comparison[key] for key in keys}


PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    **{name: partial(paired, name=name) for name in ("full", *DATASETS)},
    "lora": lora,
    "vllm": with_vllm,
    "digits": digits,
    "messages": messages,
}


def measure(bench: Bench, parts: list[str], out: Path) -> dict[str, Any]:
    """What the file has when all parts were tried; those that it has already are kept."""
    from datagen.common.versions import installed_versions
    from training.trainers.checkpoints import PACKAGES, git_commit

    machine = {
        "gpu": bench.gpu.name if bench.gpu else None,
        "memory_gib": bench.gpu.memory / GIB if bench.gpu else None,
        "tiny": bench.size is TINY,
    }
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"parts": {}}
    if found["parts"] and found["machine"] != machine:
        raise UserError(f"{out} was measured on another machine, {found['machine']}: name another file with --out")
    found |= {"machine": machine, "versions": installed_versions(PACKAGES), "commit": git_commit()}
    for name in parts:
        if "error" not in found["parts"].get(name, {"error": "not tried"}):
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        started = time.monotonic()
        try:
            result = PARTS[name](bench)
        except Exception as error:  # whatever it is: the other parts go on, and the file says it
            result = {"error": f"{type(error).__name__}: {error}"}
        took = {"took_seconds": time.monotonic() - started, "date": datetime.now(UTC).date().isoformat()}
        found["parts"][name] = result | took
        write_json(out, found)
    return found


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine = found["machine"]
    lines = [f"On {machine['gpu'] or 'a CPU'}{' (tiny)' if machine['tiny'] else ''}, commit {found['commit']}:", ""]
    lines += ["| part | way | s/step | generation | loss | tokens/s | MFU | memory, GiB (of predicted) | ratio |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|---:|---:|"]
    rest = []
    for name, part in found["parts"].items():
        if "error" in part:
            rest.append(f"- {name}: {part['error']}")
        elif "ways" in part:
            lines += [row(name, way, part) for way in part["ways"]]
        else:
            low, high = (f"{100 * x:+.1f}" for x in part["difference_ci95"])
            rest.append(
                f"- {name}: {part['before']:.1%} → {part['after']:.1%} ({low} to {high} points, n = {part['n']}), "
                f"{sum(part['seconds'].values()):.0f} s, of them training {part['seconds']['train']:.0f}"
            )
    return "\n".join([*lines, "", *rest])


def row(name: str, way: str, part: dict[str, Any]) -> str:
    """A way's row of the table."""
    median, memory, ratio = part["ways"][way]["median"], part["memory"], part.get("ratio")
    mfu = "" if median["mfu"] is None else f"{median['mfu']:.1%}"
    used = f"{memory['measured']:.1f} ({memory['ratio']:.2f})" if memory and way == "ours" else ""
    paired = f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})" if ratio and way == "ours" else ""
    return (
        f"| {name} | {way} | {median['seconds']:.2f} | {median['generation']:.2f} | {median['loss']:.2f} "
        f"| {median['tokens_per_second']:.0f} | {mfu} | {used} | {paired} |"
    )


def main() -> None:
    """Measure the parts that are missing, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the JSON file to write and go on with")
    parser.add_argument("--parts", default=",".join(PARTS), help="[%(default)s]")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu"), help="models, data and runs [%(default)s]")
    parser.add_argument("--minutes", type=float, default=25, help="no part goes on behind them [%(default)s]")
    parser.add_argument("--tiny", action="store_true", help="try the script itself: a tiny model, also on a CPU")
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: take some of {', '.join(PARTS)}")
    gpus = visible_gpus()
    if not gpus and not arguments.tiny:
        parser.error("no GPU is visible: only --tiny runs on a CPU")
    size = TINY if arguments.tiny else REAL
    work = arguments.work.resolve() / ("tiny" if arguments.tiny else "real")
    bench = Bench(work, gpus[0] if gpus else None, size, time.monotonic() + 60 * arguments.minutes)
    print(table(measure(bench, parts, arguments.out)))


if __name__ == "__main__":
    main()
