"""How much memory a run will take on each GPU and on the host, from the model's shape and the settings alone.

Every part is counted from what TRL 1.16, accelerate, DeepSpeed and vLLM keep there; nothing is fitted. Sources:

- States of the optimisation: Rajbhandari et al. 2020 (ZeRO, https://arxiv.org/abs/1910.02054), and DeepSpeed's own
  estimates (https://deepspeed.readthedocs.io/en/latest/memory.html).
- Activations: counted as Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198) count them, for gated MLPs and
  attention that keeps no scores.
- Logits: TRL 1.16 projects 4,096 tokens x 32,768 words at a time (trl/kernels/chunked_logprob.py), so the logits of a
  vocabulary of 151,936 are never whole. Older versions kept them whole: TRL #3456 reports 78 GB for a model of 1.7B.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from datagen.hub.checkpoint import CONFIG, empty_model, read_settings, weight_sizes
from training.launch.presets import Batch, Preset

GIB = 2**30
USABLE = 0.97  # of a GPU's memory; the rest is lost to fragmentation
CONTEXT = 1.5 * GIB  # CUDA's context, cuBLAS's workspaces and loaded kernels
NCCL = 0.5 * GIB  # buffers of a process that talks to others
VLLM = 3 * GIB  # vLLM's activations while it profiles itself, and its CUDA graphs
ASLEEP = 1.5 * GIB  # what sleeping vLLM leaves behind: CUDA graphs and its own context
SERVER_SHARE = 0.9  # of its GPU's memory that a server takes
PROCESS = 6 * GIB  # host memory of a Python process with torch, CUDA and the dataset
TILE = (4096, 32768)  # tokens and words that TRL projects at a time
BUCKETS = {"zero2": 2e9, "zero3": 4e9}  # DeepSpeed's: 5e8 elements to reduce and to gather, twice where they overlap
SENDER = 2 * GIB  # of the process that sends weights to a server: two of vLLM's buffers (packed_tensor.py)
LIVE = 2e9  # gathered weights under ZeRO-3: stage3_max_live_parameters is 1e9, in bfloat16


@dataclass(frozen=True)
class Shape:
    """What the memory of a vision-language model follows from. Counts are of parameters."""

    name: str
    parameters: int
    vision_parameters: int
    embedding: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    vision_hidden: int
    vision_intermediate: int
    vision_layers: int
    config: Mapping[str, Any] = field(repr=False, hash=False, compare=False)

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values that a token keeps, in bfloat16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def layer(self) -> int:
        """Parameters of the largest layer."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return max(attention + 3 * self.hidden * self.intermediate, self.embedding)

    def adapters(self, rank: int, *, vision: bool) -> int:
        """Parameters of LoRA on every linear layer of the language model, with `vision` also of the vision tower."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        each = 2 * (self.hidden + wide) + 2 * (self.hidden + narrow) + 3 * (self.hidden + self.intermediate)
        seeing = 4 * 2 * self.vision_hidden + 3 * (self.vision_hidden + self.vision_intermediate)
        return rank * (self.layers * each + (self.vision_layers * seeing if vision else 0))

    def image(self, width: int, height: int, *, tiled: bool = True) -> tuple[int, int]:
        """The patches that the vision tower sees of an image of so many pixels, and the tokens they become.

        `tiled` says whether models that cut images into tiles do so. Gemma's, InternVL's and LLaVA's towers, which see
        images of one size, are taken to see one tile.
        """
        vision = self.config["vision_config"]
        patch = _side(vision["patch_size"])
        if "scale_factor" in self.config:  # Idefics3 and SmolVLM: enlarged, cut into tiles, and whole once more
            size, longest = vision["image_size"], 4 * vision["image_size"]
            scale = longest / max(width, height)
            tiles = (math.ceil(width * scale / size) * math.ceil(height * scale / size) if tiled else 0) + 1
            patches = tiles * (size // patch) ** 2
            return patches, patches // self.config["scale_factor"] ** 2
        if "spatial_merge_size" not in vision:
            patches = (_side(vision["image_size"]) // patch) ** 2
            return patches, self.config.get("mm_tokens_per_image") or self.config.get("image_seq_length") or patches
        merge = vision["spatial_merge_size"]
        cell = patch * merge
        least = 256 * 256 if self.config["model_type"].startswith("qwen3") else 56 * 56  # of their image processors
        scale = max(1.0, math.sqrt(least / (width * height)))
        tokens = math.ceil(width * scale / cell) * math.ceil(height * scale / cell)
        return tokens * merge**2, tokens


def _side(size: int | list[int]) -> int:
    """The length of a side, which InternVL's configuration has twice."""
    return size if isinstance(size, int) else size[0]


@cache
def built_in() -> dict[str, Shape]:
    """The shapes of the recipes' models, by their names on the Hub: a plan for them needs no weights and no network."""
    shapes = json.loads((Path(__file__).parent / "shapes.json").read_text(encoding="utf-8"))
    return {
        name: shape(name, entry["config"], (entry["parameters"], entry["vision_parameters"], entry["embedding"]))
        for name, entry in shapes.items()
    }


def shape(name: str, config: Mapping[str, Any], counts: tuple[int, int, int]) -> Shape:
    """A shape from a configuration as transformers writes it; `counts` are all, vision's and the embedding's."""
    text, vision = config["text_config"], config["vision_config"]
    seen = vision.get("embed_dim", vision["hidden_size"])  # Qwen2-VL's hidden_size is the language model's
    return Shape(
        name,
        *counts,
        hidden=text["hidden_size"],
        intermediate=text["intermediate_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        head_dim=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
        vocabulary=text["vocab_size"],
        vision_hidden=seen,
        vision_intermediate=vision.get("intermediate_size") or int(seen * vision.get("mlp_ratio", 4)),
        vision_layers=vision.get("depth") or vision["num_hidden_layers"],
        config=config,
    )


def shape_of(model: str) -> Shape:
    """The shape of a built-in model, a folder's, or a Hub model's.

    Raises:
        UserError: where there is none.
    """
    name = model.partition("@")[0]
    if name in built_in():
        return built_in()[name]
    from training.models import SMALL, config_folder, model_folder

    if name in SMALL:
        return _small_shape(name, model_folder(name))
    network = empty_model(config_folder(model_folder(model)))
    seeing = network.get_encoder(modality="image")
    counts = (
        sum(weight.numel() for weight in network.parameters()),
        sum(weight.numel() for weight in seeing.parameters()),
        network.get_input_embeddings().weight.numel(),
    )
    return shape(model, network.config.to_dict(), counts)


def _small_shape(name: str, folder: Path) -> Shape:
    """The shape of a small model, from its files alone: a plan for a laptop need not wait for torch."""
    sizes = weight_sizes(folder)
    vision = sum(size for key, size in sizes.items() if key.startswith("visual."))
    counts = (sum(sizes.values()), vision, sizes["model.embed_tokens.weight"])
    return shape(name, read_settings(folder / CONFIG), counts)


@dataclass(frozen=True)
class Workload:
    """The work of a training process. Tokens and patches are of one completion and its question.

    `shared` says that the completions of a question share its prompt and its image, `generations` how many there are.
    """

    batch: Batch
    prompt_tokens: int
    completion_tokens: int
    patches: int
    bf16: bool = True
    checkpointing: bool = True
    reference: bool = False
    synced: bool = False  # the reference follows the model
    freeze_vision: bool = False
    lora_rank: int = 0
    lora_vision: bool = False
    shared: bool = False
    generations: int = 8

    @property
    def prompts(self) -> int:
        """Prompts of a micro-batch, each with its image, as often as they are computed."""
        rows, group = self.batch.per_device, self.generations
        if not self.shared:
            return rows
        cut = rows % group and group % rows  # where a micro-batch may begin and end within a group
        return min(rows, math.ceil(rows / group) + (1 if cut else 0))

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.prompts * self.prompt_tokens + self.batch.per_device * self.completion_tokens

    @property
    def sampled(self) -> int:
        """Completions that a process asks for at a time: those of a whole step."""
        return self.batch.per_device * self.batch.accumulation


Parts = dict[str, float]


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for: on a training GPU in a step and while completions are sampled, and elsewhere.

    `server` is of a GPU that only generates, less the KV cache, which takes what is left. `vllm` is the share of a
    training GPU that colocated vLLM is given. `host` is of one machine.
    """

    step: Parts
    sampling: Parts
    server: Parts
    host: Parts
    vllm: float = 0.0

    @property
    def peak(self) -> float:
        """Bytes of a training GPU at most."""
        return max(sum(self.step.values()), sum(self.sampling.values()))

    def fits(self, gpu: int | None, host: int | None = None) -> bool:
        """Whether it fits GPUs of so many bytes, and the host where that is known."""
        roomy = host is None or sum(self.host.values()) <= host
        if gpu is None:
            return roomy
        return roomy and self.peak <= USABLE * gpu and sum(self.server.values()) <= SERVER_SHARE * gpu


def predict(model: Shape, work: Workload, preset: Preset, gpu: int | None) -> Memory:
    """The memory of a run on GPUs of `gpu` bytes (None: on the CPU, where everything is the host's)."""
    states = _states(model, work, preset)
    step = states | {
        "activations": _activations(model, work, preset),
        "logits": _logits(model, work, preset),
    }
    sampling = {name: size for name, size in states.items() if name in ("weights", "optimizer", "reference model")}
    if whole := _gathered(model, work, preset):
        sampling["gathered weights"] = whole
    colocated = 0.0
    if preset.generation == "server":
        sampling["weights to send"] = SENDER
    elif preset.generation == "transformers":
        # keys and values of all completions of a step, and float32 copies of the last logits while one is sampled
        cache = work.sampled * (work.prompt_tokens + work.completion_tokens) * model.kv_bytes
        sampling["KV cache"] = cache * (1 if work.bf16 else 2)
        sampling["logits"] = 3 * 4 * work.sampled * model.vocabulary
    else:
        cache = work.sampled * (work.prompt_tokens + work.completion_tokens) * model.kv_bytes
        wanted = 2 * model.parameters + VLLM + cache
        colocated = wanted if gpu is None else math.ceil(20 * wanted / gpu) / 20  # vLLM takes a share: steps of 5%
        sampling["vLLM"] = wanted if gpu is None else colocated * gpu
        step["vLLM, asleep"] = ASLEEP
    host = _host(model, work, preset)
    if gpu is None:
        most = max((step, sampling), key=lambda parts: sum(parts.values()))
        return Memory({}, {}, {}, most | {"process": PROCESS / 6})
    overhead = CONTEXT + (NCCL if preset.processes > 1 or preset.generation == "server" else 0)
    for parts in (step, sampling):
        parts["CUDA and NCCL"] = overhead
    server = {"weights": 2.0 * model.parameters, "vLLM": VLLM} if preset.generation == "server" else {}
    return Memory(step, sampling, server, host, colocated if preset.generation == "colocate" else 0.0)


def _trained(model: Shape, work: Workload) -> int:
    """Parameters that are trained."""
    if work.lora_rank:
        return model.adapters(work.lora_rank, vision=work.lora_vision)
    return model.parameters - (model.vision_parameters if work.freeze_vision else 0)


def _states(model: Shape, work: Workload, preset: Preset) -> Parts:
    """Weights, gradients, optimizer, and what belongs to how they are split, on one GPU."""
    n, all_, trained = preset.processes, model.parameters, _trained(model, work)
    half = work.lora_rank > 0 and work.bf16  # the base of LoRA is frozen, and needs no float32
    reference = float(all_ if work.reference and not work.lora_rank else 0)
    if preset.sharding == "none":
        weights = (2.0 if half else 4.0) * all_ + (4.0 * trained if work.lora_rank else 0.0)
        parts = {"weights": weights, "gradients": 4.0 * trained, "optimizer": 8.0 * trained}
        if reference:
            parts["reference model"] = 4 * reference
        if work.bf16 and not work.lora_rank:
            parts["bfloat16 copies"] = 2.0 * trained  # autocast keeps them for the length of a forward pass
        return parts
    if preset.sharding == "fsdp2":
        gathered = 2 * 2.0 * max(model.layer, model.embedding)  # two layers in bfloat16, one fetched ahead
        parts = {"weights": 4.0 * all_ / n, "gradients": 4.0 * trained / n, "optimizer": 8.0 * trained / n}
        return parts | {"gathered layers": gathered} | ({"reference model": 4 * reference / n} if reference else {})
    split = n if preset.sharding == "zero3" else 1
    parts = {"weights": 2.0 * all_ / split}
    if preset.offload_optimizer:
        parts["gradients"] = 0.0  # they leave for the host bucket by bucket
        parts["optimizer"] = 0.0
    else:
        parts["gradients"] = 2.0 * trained / split + 4.0 * trained / n  # as computed, and accumulated in float32
        parts["optimizer"] = 12.0 * trained / n  # the float32 weights are its
    parts["buckets"] = min(BUCKETS[preset.sharding], 4.0 * trained)
    if preset.sharding == "zero3":
        parts["gathered layers"] = min(LIVE, 2.0 * all_)
    if reference:
        parts["reference model"] = 2 * reference / split
    return parts


def _gathered(model: Shape, work: Workload, preset: Preset) -> float:
    """Weights that ZeRO-3 puts together between two steps, whole on each GPU.

    TRL does so to merge adapters before they are sent to vLLM, to let a reference model follow, and where transformers
    generates.
    """
    if preset.sharding != "zero3":
        return 0.0
    models = 2 if work.synced else 1 if work.lora_rank or preset.generation == "transformers" else 0
    return models * 2.0 * model.parameters


def _activations(model: Shape, work: Workload, preset: Preset) -> float:
    """What the forward pass keeps for the backward pass, in the language model and in the vision tower."""
    half = work.bf16 and (preset.sharding != "none" or work.lora_rank > 0)
    stream = 2 if half else 4  # bytes of the residual stream: float32 weights make it float32 under autocast, too
    number = 2 if work.bf16 else 4

    def tower(tokens: int, hidden: int, inner: int, attention: int, layers: int, *, more: float = 0.0) -> float:
        # two norms that compute in float32; queries, keys, values and what attention gives; gate, up and their product
        layer = tokens * (6 * 4 * hidden + number * (2 * attention + 5 * inner)) + more
        kept = tokens * hidden * stream
        return layers * kept + layer if work.checkpointing else layers * (kept + layer)

    attention = model.head_dim * 2 * (model.heads + model.kv_heads)
    shared = _shared_attention(model, work) if work.shared else 0.0
    language = tower(work.tokens, model.hidden, model.intermediate, attention, model.layers, more=shared)
    layers = 1 if work.freeze_vision or (work.lora_rank and not work.lora_vision) else model.vision_layers
    patches = work.prompts * work.patches
    vision = tower(patches, model.vision_hidden, model.vision_intermediate, 4 * model.vision_hidden, layers)
    if not work.checkpointing:
        return language + vision
    return max(language + patches * model.vision_hidden * stream * layers, vision)


def _shared_attention(model: Shape, work: Workload) -> float:
    """What attention over shared prompts keeps of a layer: the prompt's keys and values once a completion, and scores.

    PyTorch's SDPA keeps no scores where it has a kernel for a mask with fewer key heads than query heads, and else the
    probabilities in float32. Which it does depends on its version and the GPU (transformers'
    `integrations/sdpa_attention.py`): they are counted.
    """
    keys = work.batch.per_device * (work.prompt_tokens + work.completion_tokens)
    number = 2 if work.bf16 else 4
    return keys * (number * 2 * model.kv_heads * model.head_dim + 4 * model.heads * work.completion_tokens)


def _logits(model: Shape, work: Workload, preset: Preset) -> float:
    """TRL's tile of logits, and the gradient of the language head, which it sums in float32."""
    rows = min(TILE[0], work.batch.per_device * work.completion_tokens)
    tile = rows * min(TILE[1], model.vocabulary) * (2 if work.bf16 else 4)
    head = 0.0 if work.lora_rank else 4.0 * model.embedding
    gathered = 4.0 * model.embedding if preset.sharding == "fsdp2" else 0.0
    return tile + head + gathered


def _host(model: Shape, work: Workload, preset: Preset) -> Parts:
    """The memory of one machine that trains."""
    local = max(1, preset.train_gpus)
    number = 2.0 if work.lora_rank else 4.0
    parts: Parts = {"processes": PROCESS * (local + (1 if preset.generation == "server" else 0))}
    parts["weights as they are loaded"] = number * model.parameters * local
    if preset.offload_optimizer:
        parts["optimizer"] = 1.5 * max(4 * local, 16) * _trained(model, work)  # DeepSpeed's own estimate for ZeRO-2
    return parts


@dataclass(frozen=True)
class Disk:
    """Bytes of a checkpoint, and the most that are there at once, the one that is being written among them.

    Infinitely many are where a run has no last step and keeps all of them.
    """

    checkpoint: float
    most: float


def disk(model: Shape, work: Workload, preset: Preset, settings: Mapping[str, Any]) -> Disk:
    """What the checkpoints of a run take, with everything that --resume needs."""
    trained, deepspeed = _trained(model, work), preset.sharding in ("zero2", "zero3")
    weights = (2.0 if deepspeed else 4.0) * (trained if work.lora_rank else model.parameters)
    if preset.sharding in ("zero2", "fsdp2"):
        weights *= 2  # once for whoever loads the model, once for --resume; ZeRO-3 leaves the second out
    states = (12.0 if deepspeed else 8.0) * trained  # Adam's two, and DeepSpeed's own float32 weights
    reference = (2.0 if deepspeed else 4.0) * model.parameters if work.synced else 0.0
    steps, limit = settings.get("max_steps") or 0, settings.get("save_total_limit")
    rests = [settings.get("save_steps") or 500, settings.get("eval_steps") or math.inf]  # below 1 they are shares
    every = min(rest * steps if rest < 1 else rest for rest in rests)
    saved = math.ceil(steps / every) if steps > 0 else math.inf
    if limit is not None:  # the best is kept beside the last, and another is written before one is deleted
        saved = min(saved, (max(2, limit) if settings.get("eval_steps") else limit) + 1)
    return Disk(weights + states + reference, saved)


def gib(size: float) -> str:
    """Bytes in words."""
    return f"{size / GIB:.1f} GiB" if size < 10 * GIB else f"{size / GIB:.0f} GiB"
