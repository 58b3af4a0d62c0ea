"""Loading a vision-language model from a checkpoint folder: one way, for training and evaluation.

Nothing that a folder holds is executed. transformers would run the code that a folder names (`auto_map`) after a
question on the terminal, which a pipe can answer as well; it is told here that it must not. Weights come from
safetensors alone.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datagen.common.errors import UserError, check_torchvision
from datagen.common.untrusted import read_object
from datagen.hub.chat_template import check_template, end_of_turn
from datagen.hub.fetch import download, parse_repo_id
from datagen.r1_format import make_prompt, with_image

CONFIG, ADAPTER, ADAPTER_WEIGHTS = "config.json", "adapter_config.json", "adapter_model.safetensors"
INDEX = "model.safetensors.index.json"  # where the weights are in several files: which has which
LAYERS = ("num_hidden_layers", "num_layers", "depth", "n_layer", "n_layers")
WEIGHTS = re.compile(r"[\w.-]+\.safetensors")
PROCESSOR = ("processor_config.json", "preprocessor_config.json")  # transformers 5 writes the first
ADVICE = "copy or download the checkpoint again"
LOCAL = {"trust_remote_code": False, "local_files_only": True}
PIXELS = 1 << 27  # of an image, as a processor's settings have them: ten times what Qwen's take
LONGEST = 300  # characters of a library's message that are shown
EXAMPLES = 3  # names of weights that are shown


def silence_transformers() -> None:
    """No bars and tables of transformers while it loads: what matters is said in a sentence of ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load_checkpoint(folder: Path, dtype: Any, *, trainable: bool = False) -> tuple[Any, Any]:
    """`(model, processor)` of the checkpoint in `folder`; every weight comes from its files, and is cast to `dtype`.

    An adapter is loaded by PEFT into the model that it names: transformers 5.17 by itself reads plain LoRA, and leaves
    out what DoRA and `modules_to_save` add. With `trainable` it is a `PeftModel` whose adapter can be trained on.

    Raises:
        UserError: where the folder is no whole, unquantised vision-language model with a chat template, or needs code
            of its own.
    """
    base = _check_files(folder)
    processor = load_processor(folder)
    model = _load_model(base or folder, dtype=dtype)
    return (model if base is None else _with_adapter(model, folder, trainable)), processor


def check_checkpoint(folder: Path) -> Any:
    """The processor of a checkpoint that another engine is to load, such as vLLM; the checks are `load_checkpoint`'s.

    The weights' names and shapes are compared, and no weight is read.

    Raises:
        UserError: as `load_checkpoint`; and for an adapter, which is no model by itself.
    """
    if _check_files(folder) is not None:
        raise UserError(f"{folder} is a LoRA adapter, which vLLM can't load as a model: use --engine transformers")
    processor = load_processor(folder)
    _load_model(folder, device_map="meta")
    return processor


def _check_files(folder: Path) -> Path | None:
    """Check what the files say before anything is loaded; returns the folder of the model that an adapter changes."""
    base = adapter_base(folder)
    for one in (folder, *([base] if base else [])):
        check_weights_files(one)
    if "quantization_config" in read_settings((base or folder) / CONFIG):
        raise UserError(f"{base or folder} holds quantised weights: name the model that they were made from")
    return base


def adapter_base(folder: Path) -> Path | None:
    """The folder of the model that the adapter in `folder` changes; None where `folder` holds a whole model.

    Raises:
        UserError: where the adapter's settings are damaged, or that model isn't there.
    """
    if not (folder / ADAPTER).is_file():
        return None
    name = str(read_settings(folder / ADAPTER).get("base_model_name_or_path"))
    base = download(name, "model")[0] if parse_repo_id(name) else Path(name)
    if not (base / CONFIG).is_file():
        raise UserError(f"{folder} is a LoRA adapter of {name}, which is gone: put it back, or merge them")
    return base


def read_settings(path: Path) -> dict[str, Any]:
    """What a JSON file of settings holds.

    Raises:
        UserError: where it is missing or damaged.
    """
    return read_object(path, ADVICE, ours=False)


def missing_parts(folder: Path) -> list[str]:
    """What a folder lacks to be a checkpoint, or a LoRA adapter."""
    present = {
        CONFIG: (folder / CONFIG).is_file() or (folder / ADAPTER).is_file(),
        "weights (*.safetensors)": any(folder.glob("*.safetensors")),
        f"processor ({PROCESSOR[0]})": any((folder / file).is_file() for file in PROCESSOR),
    }
    return [part for part, exists in present.items() if not exists]


def check_weights_files(folder: Path) -> None:
    """Check that every file of weights is there, as long as its header says, and that they have a tensor a layer.

    Raises:
        UserError: naming the first that is not.
    """
    from safetensors import SafetensorError, safe_open

    names = {path.name for path in folder.glob("*.safetensors")}
    if (folder / INDEX).is_file():
        files = read_settings(folder / INDEX).get("weight_map")
        names |= {str(name) for name in files.values()} if isinstance(files, dict) else {INDEX}
    tensors = 0
    for name in sorted(names):
        try:
            if not WEIGHTS.fullmatch(name):
                raise OSError(f"{INDEX} names other files")
            with safe_open(folder / name, "numpy") as file:
                tensors += len(file.keys())
        except (SafetensorError, OSError) as error:
            raise UserError(f"{folder} has damaged weights ({name}: {_message(error)}): {ADVICE}") from error
    settings = read_settings(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    parts = [settings, *(part for part in settings.values() if isinstance(part, dict))]
    layers = max(count for part in parts for name in LAYERS if isinstance(count := part.get(name, 0), int))
    if layers > tensors:  # a model of many layers is long in the making, also without weights
        raise UserError(f"{folder} is to have {layers} layers, and its weights hold {tensors} tensors: {ADVICE}")


def load_processor(folder: Path) -> Any:
    """The processor of the checkpoint in `folder`, whose chat template has been tried.

    Its tokenizer has an `eos_token` and a `pad_token`, as every batch of answers needs both.

    Raises:
        UserError: where it can't be loaded, has no chat template or one that can't be rendered, or no token that ends
            an answer; where torchvision is of another build than torch.
    """
    check_torchvision()
    from transformers import AutoProcessor

    try:
        with _class_sizes_kept(folder):
            processor = AutoProcessor.from_pretrained(folder, **LOCAL)
    except Exception as error:  # every tokenizer and image processor raises its own
        raise refusal(folder, error) from error
    if not getattr(processor, "chat_template", None):
        raise UserError(f"{folder} has no chat template: save the checkpoint's processor with one")
    if not hasattr(processor, "image_processor"):
        raise UserError(f"{folder} has no image processor: save the checkpoint's whole processor")
    check_template(folder, processor)
    _complete_tokenizer(folder, processor)
    _try_processor(folder, processor)
    return processor


def _complete_tokenizer(folder: Path, processor: Any) -> None:
    """Let a tokenizer without `eos_token` have the chat template's, and one without `pad_token` its `eos_token`."""
    tokenizer = processor.tokenizer
    try:
        end = end_of_turn(processor)
    except UserError:
        raise
    except Exception as error:  # settings of a tokenizer are read when it is used
        raise refusal(folder, error) from error
    tokenizer.eos_token = tokenizer.eos_token or end
    if tokenizer.eos_token is None:
        raise UserError(
            f"{folder} names no token that ends an answer: set eos_token in its tokenizer_config.json, or save a chat "
            "template that ends an answer with a special token"
        )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token


def _try_processor(folder: Path, processor: Any) -> None:
    """Check that a processor takes a question with an image: its settings are read when it is used."""
    from PIL import Image

    question = with_image(make_prompt("How many?", "3"), {"type": "image", "image": Image.new("RGB", (64, 64))})
    try:
        size = dict(processor.image_processor.size or {})
        if any(isinstance(pixels, int) and pixels > PIXELS for pixels in size.values()):
            raise ValueError(f"its images are to have more than {PIXELS} pixels")
        processor.apply_chat_template(
            [question],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"return_tensors": "pt"},
        )
    except Exception as error:  # as above
        raise refusal(folder, error) from error


@contextmanager
def _class_sizes_kept(folder: Path) -> Iterator[None]:
    """Inside, an image processor with limits of its own (`max_pixels`) leaves the defaults of its class as they were.

    transformers 5.17 writes them into the class (Qwen's, and eight others'): a processor that is loaded afterwards and
    says nothing of its size would have another's.
    """
    import transformers

    said = [read_settings(folder / name) for name in PROCESSOR if (folder / name).is_file()]
    said += [inner for one in said if isinstance(inner := one.get("image_processor"), dict)]
    stems = {str(one.get("image_processor_type")).removesuffix("Fast") for one in said}
    found: list[Any] = [getattr(transformers, stem + end, None) for stem in stems for end in ("", "Pil")]
    sizes = [(one, one.size) for one in found if isinstance(getattr(one, "size", None), dict)]
    for one, size in sizes:
        one.size = dict(size)
    try:
        yield
    finally:
        for one, size in sizes:
            one.size = size


def _load_model(folder: Path, **options: Any) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText
    from transformers.integrations import is_deepspeed_zero3_enabled

    try:
        if not is_deepspeed_zero3_enabled():  # transformers would split the empty model over the processes
            _check_size(folder)
        model, loading = AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True, **options, **LOCAL
        )
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(f"{folder} has damaged weights ({error}): copy or download the checkpoint again") from error
    except Exception as error:  # configurations of many models, each with its own checks
        raise refusal(folder, error) from error
    _check_weights(folder, loading)
    return model


def _check_size(folder: Path) -> None:
    """Check that the weights are enough for the model that the settings describe.

    transformers fills what is missing with random numbers, which may take more memory than there is.

    Raises:
        UserError: where they are not.
    """
    held = sum(weight_sizes(folder).values())
    needed = sum(weight.numel() for weight in empty_model(folder).parameters())
    if needed > 2 * held:
        raise UserError(f"{folder} is to have {needed} parameters, and its weights hold {held}: {ADVICE}")


def weight_sizes(folder: Path) -> dict[str, int]:
    """How many numbers each tensor in the files of weights has, from their headers alone."""
    from safetensors import safe_open

    sizes = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                sizes[name] = math.prod(file.get_slice(name).get_shape())
    return sizes


def empty_model(folder: Path) -> Any:
    """The model that the settings in a folder describe, without memory for its weights.

    Raises:
        UserError: where they describe none.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL)
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except Exception as error:  # configurations of many models, each with its own checks
        raise refusal(folder, error) from error


def _check_weights(folder: Path, loading: Mapping[str, Any]) -> None:
    """Check what transformers says of the loading: it fills weights that are missing with random numbers."""
    if mismatched := [str(one[0]) for one in loading["mismatched_keys"]]:
        raise UserError(
            f"{folder} has weights of other shapes than its {CONFIG} says ({_some(mismatched)}): save the checkpoint "
            "again"
        )
    if missing := [str(name) for name in loading["missing_keys"]]:
        unknown = [str(name) for name in loading["unexpected_keys"]]
        hint = f", and has others ({_some(unknown)})" if unknown else ""
        raise UserError(
            f"{folder} lacks {len(missing)} of the model's weights ({_some(missing)}){hint}: save the checkpoint again "
            "under the names that transformers gives them"
        )


def _with_adapter(model: Any, folder: Path, trainable: bool) -> Any:
    """The model with the adapter's layers in it, or the `PeftModel` around both that can be trained."""
    from peft import PeftModel

    if not (folder / ADAPTER_WEIGHTS).is_file():  # PEFT would look for a pickle
        raise UserError(f"{folder} has no {ADAPTER_WEIGHTS}: save the adapter as safetensors")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
            return adapted if trainable else adapted.get_base_model()
    except Exception as error:  # damaged settings or weights, another model's adapter
        raise UserError(f"the adapter in {folder} can't be loaded: {_message(error)}") from error


def refusal(folder: Path, error: Exception) -> UserError:
    """What to say where transformers can't read what is in a folder."""
    if "trust_remote_code" in str(error):
        return UserError(
            f"{folder} needs code of its own, which is never run: name a checkpoint of a model that transformers knows"
        )
    return UserError(f"{folder} can't be loaded as a vision-language model: {_message(error)}")


def _message(error: Exception) -> str:
    """What a library says, on one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:LONGEST]


def _some(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:EXAMPLES]) + (", ..." if len(first) > EXAMPLES else "")
