"""Loading a model to train, with the opening words in its chat template and vision tokens banned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datagen.errors import UserError
from datagen.r1 import vision_token_ids, with_opening
from training.config import SMALL

BUILT_IN = Path(__file__).parent / "small"


def locate(model: str) -> str:
    """The folder or Hub name that `model` stands for.

    Raises:
        UserError: where it names a folder that holds no model.
    """
    if model in SMALL:
        return str(BUILT_IN / SMALL[model])
    folder = Path(model)
    if folder.exists() or model.count("/") != 1:
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{model} is no model folder (no config.json in it): name a checkpoint, a Hub model, or one of "
                f"{', '.join(SMALL)}"
            )
        try:
            json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{folder / 'config.json'} is damaged: name another checkpoint") from error
    return model


def load(model: str, *, freeze_vision: bool = False) -> tuple[Any, Any]:
    """`(model, processor)`, with weights in float32; the vision tower's are not trained where `freeze_vision`.

    On a GPU the recipe's `bf16: true` computes in bfloat16. The weights themselves stay in float32: a step of 1e-6 on a
    weight of 0.01 is lost when it is rounded to bfloat16.

    The processor's chat template puts the opening words at the start of the assistant's turn. The model's generation
    config never samples an image, video or vision token; both are saved with every checkpoint.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    where = locate(model)
    try:
        processor = AutoProcessor.from_pretrained(where, padding_side="left")
        network = AutoModelForImageTextToText.from_pretrained(where, dtype="float32", use_safetensors=True)
    except (OSError, ValueError) as error:
        raise UserError(f"can't load {model}: {' '.join(str(error).split())[:300]}") from error
    processor.chat_template = with_opening(processor.chat_template)
    if freeze_vision:
        network.get_encoder(modality="image").requires_grad_(False)
    network.generation_config.suppress_tokens = vision_token_ids(processor.tokenizer.get_vocab())
    return network, processor
