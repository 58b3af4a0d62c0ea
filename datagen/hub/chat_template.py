"""A checkpoint's chat template, rendered once in a process with limits before it is rendered in ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from datagen.common.errors import UserError
from datagen.r1_format import make_prompt, with_image

SECONDS = 10  # of computing; a thousandth would do
BYTES = 1 << 30
CHARACTERS = 1 << 20
RENDERER = Path(__file__).with_name("template_renderer.py")


def check_template(folder: Path, processor: Any) -> None:
    """Check that the chat template of a checkpoint's processor renders a question.

    Raises:
        UserError: where it raises an error, or takes more time or memory than any template needs.
    """
    conversation = with_image(make_prompt("How many?", "3"), {"type": "image"})
    variables = {"messages": conversation, "add_generation_prompt": True, "tools": None, "documents": None}
    tokens = {name: str(token) for name, token in processor.tokenizer.special_tokens_map.items()}
    limits = [*map(str, (SECONDS, BYTES, CHARACTERS))]
    try:
        ended = subprocess.run(
            [sys.executable, "-P", str(RENDERER), *limits],
            input=json.dumps([processor.chat_template, tokens | variables]),
            capture_output=True,
            text=True,
            check=False,
            timeout=60 + SECONDS,
        )
        reason = "" if ended.returncode == 0 else ended.stderr.strip()[-300:] or "it takes too much time or memory"
    except subprocess.TimeoutExpired:
        reason = "it takes too much time or memory"
    if reason:
        raise UserError(
            f"the chat template of {folder} can't be rendered ({reason}): save the checkpoint's processor with one "
            "that takes a question with an image"
        )
