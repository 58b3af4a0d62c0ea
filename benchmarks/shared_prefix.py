"""The loss with shared prefixes beside TRL's own: `python -m benchmarks.shared_prefix`.

Log-probabilities of a batch and the gradient of a weighted sum of them, on both paths in turns, in one process. Of two
models: the built-in one on a batch of digits, with completions as long as its solutions; and one of the shape of
Qwen2.5-VL with 40 million random weights, an image of 196 tokens and completions that are all equally long. In seconds
of CPU time on one thread; memory is by how much a pass raises that of a process of its own at its peak (on Linux). The
figures are kept in `results/shared-prefix.json`.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm import tqdm

from benchmarks.steps import ratios
from datagen.common.files import write_json
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reader import open_dataset
from datagen.r1_format import completion_of
from training.models import load_model, model_folder
from training.rollout.parity import loss_inputs

RESULTS = Path(__file__).parent / "results" / "shared-prefix.json"
GROUP = 8
ROUNDS = 7
SIZE = 392  # pixels a side of the large image: 14 x 14 tokens
WORDS = 80  # by which the prompts of the large model are lengthened, in tokens
BUILT_IN = "built-in model, digits, vision frozen"
# Shown as: the model, whether its vision tower is trained, questions a batch, and the tokens of a completion where they
# do not follow its solution.
CASES: dict[str, tuple[str, bool, int, int | None]] = {
    BUILT_IN: ("small", False, 16, None),
    "40 M parameters, completions of 64": ("large", True, 1, 64),
    "40 M parameters, completions of 256": ("large", True, 1, 256),
    "40 M parameters, vision frozen, completions of 64": ("large", False, 1, 64),
    "40 M parameters, vision frozen, completions of 256": ("large", False, 1, 256),
}
Measured = tuple[torch.Tensor, list[torch.Tensor]]  # log-probabilities where there are tokens, and gradients


def make_large(folder: Path) -> Path:
    """A model of 40 million random weights, with the built-in one's tokenizer, for larger images."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    small = model_folder("small")
    config = AutoConfig.from_pretrained(small)
    text = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
    text |= {"num_key_value_heads": 2, "vocab_size": 8192, "layer_types": ["full_attention"] * 8}
    vision = {"depth": 6, "hidden_size": 384, "intermediate_size": 1024, "num_heads": 6, "out_hidden_size": 512}
    config.text_config.update(text)
    config.vision_config.update(vision | {"fullatt_block_indexes": [2, 5]})
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(small)
    processor.image_processor.size = {"shortest_edge": SIZE * SIZE, "longest_edge": SIZE * SIZE}
    processor.save_pretrained(folder)
    return folder


def make_trainer(model: Path, rows: Any, out: Path, *, vision: bool) -> Any:
    """A trainer that shares prompts, of which nothing has been trained yet."""
    from trl import GRPOConfig

    from training.trainers.shared_prefix.trainer import SharedPrefix

    network, processor = load_model(str(model))
    network.get_encoder(modality="image").requires_grad_(vision)
    trainer = SharedPrefix(
        model=network,
        processing_class=processor,
        args=GRPOConfig(
            output_dir=str(out),
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            num_generations=GROUP,
            per_device_train_batch_size=GROUP,
        ),
        train_dataset=rows,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
    )
    trainer.share_prefixes()
    return trainer


def make_batch(trainer: Any, rows: Any, questions: int, length: int | None) -> dict[str, Any]:
    """What the loss is computed from: `GROUP` completions of each question."""
    from trl.data_utils import prepare_multimodal_messages

    tokens = torch.Generator().manual_seed(0)
    tokenizer = trainer.processing_class.tokenizer
    prompts, completions = [], []
    for row in rows.select(range(questions)):
        prompt = row["prompt"]
        if length is not None:
            system, user = prompt
            prompt = [system, user | {"content": user["content"] + " 7" * (WORDS // 2)}]
        solution = tokenizer(completion_of(row["solution"]))["input_ids"]
        prompts += [prepare_multimodal_messages(prompt, images=[row["image"]])] * GROUP
        for _ in range(GROUP):
            own = int(torch.randint(len(solution) // 2, 2 * len(solution), (1,), generator=tokens))
            completions.append(torch.randint(60, 200, (length or own,), generator=tokens).tolist())
    return loss_inputs(trainer, prompts, completions)


def measure(trainer: Any, inputs: dict[str, Any], group: torch.Tensor | None) -> Measured:
    """One pass forward and back; TRL's own where there is no `group`."""
    trainer.shares_loss = group is not None
    with trainer.groups(group):
        logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, **inputs)
    real = inputs["attention_mask"][:, -inputs["logits_to_keep"] :].bool()
    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(0))
    trained = [value for value in trainer.model.parameters() if value.requires_grad]
    loss = (logps * weights)[real].sum() / real.sum()
    return logps.detach()[real], list(torch.autograd.grad(loss, trained, allow_unused=True))


def prepare(model: Path, data: Path, case: str) -> tuple[Any, dict[str, Any], torch.Tensor]:
    """The trainer of a case, its batch, and the prompt of each row."""
    torch.set_num_threads(1)
    _, vision, questions, length = CASES[case]
    rows = open_dataset(data).questions("train")
    trainer = make_trainer(model, rows, data.parent / "out", vision=vision)
    return trainer, make_batch(trainer, rows, questions, length), torch.arange(questions * GROUP) // GROUP


def extra_memory(model: Path, data: Path, case: str, shared: bool) -> int:
    """Bytes by which one pass raises the memory of this process at its peak."""
    trainer, inputs, group = prepare(model, data, case)
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here on
    measure(trainer, inputs, group if shared else None)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 - before


def compare(model: Path, data: Path, case: str) -> dict[str, Any]:
    """What is kept of a case: tokens of a prompt and of the longest completion, speed, memory and errors."""
    trainer, inputs, group = prepare(model, data, case)
    plain, shared = measure(trainer, inputs, None), measure(trainer, inputs, group)
    pairs = [(one, other) for one, other in zip(plain[1], shared[1], strict=True) if one is not None]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for i in range(ROUNDS):
        for share in (True, False) if i % 2 else (False, True):
            started = time.process_time()
            measure(trainer, inputs, group if share else None)
            seconds[share].append(time.process_time() - started)
    faster, *interval = ratios(seconds[False], seconds[True])
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        theirs, ours = (pool.apply(extra_memory, (model, data, case, share)) / 2**20 for share in (False, True))
    width = inputs["logits_to_keep"]
    return {
        "case": case,
        "prompt": inputs["input_ids"].shape[1] - width,
        "completion": width,
        "faster": faster,
        "faster_ci95": interval,
        "fewer_tokens": fewer_tokens(inputs["attention_mask"], width),
        "mib_trl": theirs,
        "mib_ours": ours,
        "logps_apart": float((plain[0] - shared[0]).abs().max()),
        "gradients_apart": max(float((one - other).abs().max()) for one, other in pairs),
    }


def fewer_tokens(mask: torch.Tensor, width: int) -> float:
    """How many times the tokens of shared prompts are forwarded where nothing is shared; padding is not counted."""
    prompts, completions = int(mask[:, :-width].sum()), int(mask[:, -width:].sum())
    return (prompts + completions) / (prompts / GROUP + completions)


def table(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| what | tokens, prompt + completion | fewer tokens | times as fast (95% interval) | MiB more, TRL's "
        "| MiB more, ours | log-probabilities apart | gradients apart |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in results:
        low, high = one["faster_ci95"]
        lines.append(
            f"| {one['case']} | {one['prompt']} + {one['completion']} | {one['fewer_tokens']:.1f} "
            f"| {one['faster']:.1f} ({low:.2f} to {high:.2f}) | {one['mib_trl']:.0f} | {one['mib_ours']:.0f} "
            f"| {one['logps_apart']:.1e} | {one['gradients_apart']:.1e} |"
        )
    return "\n".join(lines)


def short_table(results: list[dict[str, Any]]) -> str:
    """What the documentation shows of them."""
    lines = ["| model, G = 8 | P | S | fewer tokens | times as fast |", "|---|---:|---:|---:|---:|"]
    for one in results:
        most = "up to " if one["case"] == BUILT_IN else ""
        lines.append(
            f"| {one['case'].partition(', completions')[0]} | {one['prompt']} | {most}{one['completion']} "
            f"| {one['fewer_tokens']:.1f} | {one['faster']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, keep the figures, and print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = build(DatasetConfig(dataset="digits", size=200, seed=0), folder / "data", executor=map)
        models = {"small": model_folder("small"), "large": make_large(folder / "large")}
        results = [compare(models[model], data, case) for case, (model, *_) in tqdm(CASES.items())]
    write_json(RESULTS, results)
    print(table(results))


if __name__ == "__main__":
    main()
