"""Loading a model to train, with the opening words in its chat template and vision tokens banned."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from datagen.common.config_file import dump_yaml
from datagen.common.errors import UserError, suggest
from datagen.hub.chat_template import stop_token_ids
from datagen.hub.checkpoint import ADAPTER, CONFIG, adapter_base, load_checkpoint, load_processor, read_settings
from datagen.hub.fetch import download, parse_repo_id
from datagen.hub.record import read_record
from datagen.r1_format import vision_token_ids, with_opening

# The models that are built in, and their folders.
SMALL = {"small": "base", "small-ciphers": "ciphers", "small-messages": "messages"}
DEFAULT_MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
LIMITS = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}  # older names of parts of Qwen's `size`
BUILT_IN = Path(__file__).parent / "builtin_models"


def pin_model(model: str) -> str:
    """The name that stands for the same weights tomorrow and elsewhere.

    That of a built-in model, the absolute path of a folder, or a repository's with its commit; it is downloaded.
    """
    if model in SMALL:
        return model
    return download(model, "model")[1] if parse_repo_id(model) else str(Path(model).resolve())


def model_folder(model: str) -> Path:
    """The folder of a model: a built-in one, a checkpoint folder, or USER/NAME (or USER/NAME@revision) on the Hub.

    Raises:
        UserError: where there is none, or it holds no model.
    """
    if model in SMALL:
        return BUILT_IN / SMALL[model]
    folder = download(model, "model")[0] if parse_repo_id(model) else Path(model)
    if not any((folder / name).is_file() for name in (CONFIG, ADAPTER)):
        raise UserError(
            f"{model} is no model folder (no config.json in it): name a checkpoint, a Hub model, or one of "
            f"{', '.join(SMALL)}"
        )
    read_settings(config_folder(folder) / CONFIG)
    return folder


def config_folder(folder: Path) -> Path:
    """Where a model's configuration is: in its folder, or, for an adapter, in that of the model that it changes.

    Raises:
        UserError: where the model that an adapter changes can't be found.
    """
    return adapter_base(folder) or folder


def adapter_settings(model: str) -> dict[str, Any]:
    """PEFT's settings of a model that is an adapter; empty for any other.

    Raises:
        UserError: where the model is no folder here and can't be fetched.
    """
    path = model_folder(model) / ADAPTER
    return read_settings(path) if path.is_file() else {}


def base_model_name(model: str) -> str:
    """What a model is called as the base of others: a published one its name, one of this machine what it came from.

    Raises:
        UserError: where the model is no folder here and can't be fetched.
    """
    return model if parse_repo_id(model) else str(read_record(model_folder(model)).get("base_model", model))


def is_small(folder: Path) -> bool:
    """Whether the model in a folder is built in, or as small."""
    shape = read_settings(config_folder(folder) / CONFIG)
    width = shape.get("text_config", shape).get("hidden_size", 0)
    return bool(width and width <= 256)


def load_model(
    model: str, settings: Mapping[str, Any] = MappingProxyType({}), *, dtype: str = "float32"
) -> tuple[Any, Any]:
    """`(model, processor)`, with weights in `dtype`.

    Of a run's settings it heeds `freeze_vision` (nothing in the vision tower is trained), `image_processor` and
    `new_tokens` (see `add_tokens`).

    On a GPU the recipe's `bf16: true` computes in bfloat16. The weights themselves stay in float32: a step of 1e-6 on a
    weight of 0.01 is lost when it is rounded to bfloat16.

    The processor's chat template puts the opening words at the start of the assistant's turn. The model's generation
    config never samples an image, video or vision token; both are saved with every checkpoint. An adapter is a
    `PeftModel`, and trained on.

    Raises:
        UserError: where there is no such model, it is not whole, its image processor has no such setting, or it is an
            adapter that can't be trained on.
    """
    network, processor = load_checkpoint(model_folder(model), dtype, trainable=True)
    processor.tokenizer.padding_side = "left"
    processor.chat_template = with_opening(processor.chat_template)
    configure_image_processor(processor, settings.get("image_processor") or {})
    if settings.get("freeze_vision"):
        network.get_encoder(modality="image").requires_grad_(False)
    plain = network.get_base_model() if hasattr(network, "peft_config") else network
    check_output_head(plain)
    if settings.get("new_tokens"):
        add_tokens(plain, processor.tokenizer, settings["new_tokens"])
    plain.generation_config = generation_config(plain.generation_config, processor)
    return network, processor


def add_tokens(model: Any, tokenizer: Any, texts: Sequence[str]) -> None:
    """Make each of the texts one token, in a row of the embeddings that is not used; those that are one stay so.

    An embedding begins as the mean of those of the tokens that the text was. What a model says often, and of which a
    single wrong token ends an episode, is better one token: a call of a tool, for one.

    Raises:
        UserError: where the embeddings have too few unused rows.
    """
    import torch
    from tokenizers import AddedToken

    pieces = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts}
    pieces = {text: ids for text, ids in pieces.items() if len(ids) > 1}
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    if len(tokenizer) + len(pieces) > len(tables[0]):
        raise UserError(
            f"new_tokens: the model has room for {len(tables[0]) - len(tokenizer)} more tokens, not {len(pieces)}"
        )
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in pieces])
    with torch.no_grad():
        for text, ids in pieces.items():
            for table in tables:  # which may be one and the same
                table[tokenizer.convert_tokens_to_ids(text)] = table[ids].mean(0)


def lora_config(model: Any, settings: Mapping[str, Any]) -> Any:
    """PEFT's `LoraConfig` of a run's settings for a model; None without `lora`.

    With `freeze_vision` no adapter is put into the vision tower, whatever `target_modules` names: PEFT's `all-linear`
    is in it, too.
    """
    lora = dict(settings.get("lora") or {})
    if not lora:
        return None
    from peft import LoraConfig

    if settings.get("freeze_vision"):
        tower = model.get_encoder(modality="image")
        (name,) = (name for name, module in model.named_modules() if module is tower)
        frozen, own = rf"{re.escape(name)}(\..*)?", lora.get("exclude_modules") or []
        names = own if isinstance(own, str) else "|".join(rf"(.*\.)?{re.escape(one)}" for one in own)
        lora["exclude_modules"] = f"{frozen}|{names}" if names else frozen
    return LoraConfig(task_type="CAUSAL_LM", **lora)


def check_adapted(model: Any, settings: Mapping[str, Any]) -> None:
    """Check what of a model is trained by a run's settings, once it has its adapter.

    Raises:
        UserError: where TRL can't compute the loss, or something in a frozen vision tower is trained all the same.
    """
    check_output_head(model)
    if settings.get("freeze_vision"):
        check_frozen_vision(model)


def check_frozen_vision(model: Any) -> None:
    """Raise a `UserError` where something in the vision tower is trained all the same, by `modules_to_save` of LoRA."""
    for name, weight in model.get_encoder(modality="image").named_parameters():
        if weight.requires_grad:
            raise UserError(
                f"freeze_vision=true, and lora would train {name} of the vision tower: set freeze_vision=false, or "
                "take it out of lora"
            )


def check_output_head(model: Any) -> None:
    """Raise a `UserError` where an adapter trains single tokens of the output head, as it does where it is tied.

    TRL 1.16 computes log-probabilities from the head's weight and bias, which PEFT's wrapper of tokens does not give.
    TRL itself refuses a LoRA on the head for the same reason.
    """
    from peft.utils.other import TrainableTokensWrapper

    if isinstance(model.get_output_embeddings(), TrainableTokensWrapper):
        raise UserError(
            "the adapter trains single tokens of a model whose output head is tied to its embeddings, which TRL's loss "
            "can't compute: train an adapter without trainable_token_indices"
        )


def generation_config(own: Any, processor: Any) -> Any:
    """A model's generation config without anything that changes what is sampled, but for the vision tokens' ban.

    Its `eos_token_id` are all tokens that end an answer, also that of the chat template.

    transformers fills each field that a trainer leaves open from the checkpoint's: with Qwen's repetition penalty,
    validation would answer as no evaluation does, and log-probabilities would not be those of the sampling.
    """
    from transformers import GenerationConfig

    tokens = {name: value for name, value in own.to_dict().items() if name.endswith("_token_id")}
    tokens["eos_token_id"] = stop_token_ids(processor, own.eos_token_id)
    return GenerationConfig(**tokens, suppress_tokens=vision_token_ids(processor.tokenizer.get_vocab()))


def check_image_processor(model: str, changes: Mapping[str, Any]) -> None:
    """Check changes to a model's image processor without loading the model.

    Raises:
        UserError: as `configure_image_processor`.
    """
    if changes:
        configure_image_processor(load_processor(model_folder(model)), changes)


def configure_image_processor(processor: Any, changes: Mapping[str, Any]) -> None:
    """Change settings of a processor's image processor, the size of images for example.

    Raises:
        UserError: where it has no such setting, or can't take a picture with them.
    """
    from PIL import Image

    images = processor.image_processor
    known = images.to_dict()
    for name in changes:
        if name in LIMITS and LIMITS[name] in (known.get("size") or {}):
            size = {**known["size"], LIMITS[name]: changes[name]}
            whole = dump_yaml({"size": size}).strip()
            raise UserError(f"not every library heeds {name} where it is given alone: set image_processor={whole}")
        if name not in known:
            raise UserError(f"the image processor has no setting {name!r}: {suggest(name, sorted(known))}")
    try:
        changed = type(images).from_dict(copy.deepcopy(known) | changes)
        changed(images=[Image.new("RGB", (64, 48))], return_tensors="pt")
    except Exception as error:  # each image processor has checks of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"image_processor={dict(changes)} is not possible: {reason}") from error
    processor.image_processor = changed
