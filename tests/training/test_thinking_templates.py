"""Chat templates of models that think by themselves: a prompt opens the thinking once, with our opening words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from datagen.hub.checkpoint import load_processor
from datagen.r1_format import OPENING, make_prompt, with_opening, without_opening
from tests.conftest import Asked
from tests.processes import invoke, refused

TURNS = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}{%- for part in message.content %}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' if part.type == 'image' else part.text }}"
    "{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}\n"
)
# The ends of published templates, by their shapes: Qwen3-VL-Thinking, GLM-4.1V-Thinking, a switch as in Qwen3 and
# InternVL3.5 (open, and closed where thinking is off), and none.
ENDS = {
    "opened with a line feed": "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}",
    "opened in the text": "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}",
    "closed at once": (
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
        "{%- if not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
    ),
    "named in the history alone": (
        "{%- if '<think>' in messages[-1].content %}{%- endif %}"
        "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    ),
    "not at all": "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}",
}


def render(template: str, *, prompt: bool = True) -> str:
    """A conversation of one question, as transformers renders it."""
    conversations = [make_prompt("Which digit is it?", "42")]
    texts, _ = render_jinja_template(conversations, chat_template=template, add_generation_prompt=prompt)
    return str(texts[0])


@pytest.mark.parametrize("end", ENDS)
def test_a_prompt_opens_the_thinking_once(end: str) -> None:
    template = TURNS + ENDS[end]
    opened = with_opening(template)
    plain = TURNS + ENDS["not at all"]
    assert render(opened) == render(plain) + OPENING
    assert render(opened, prompt=False) == render(template, prompt=False)
    assert with_opening(opened) == opened
    assert without_opening(opened) == template


@pytest.fixture
def thinking(random_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint whose template opens the thinking itself, and takes that of an answer apart."""
    folder = Path(shutil.copytree(random_checkpoint, tmp_path / "thinking"))
    turns = TURNS.replace("{{- message.content }}", "{{- message.content.split('</think>')[-1] }}")
    turns = turns.replace("else part.text }}", "else part.text.split('</think>\n')[-1] }}")
    (folder / "chat_template.jinja").write_text(turns + ENDS["opened with a line feed"])
    return folder


def test_what_an_evaluation_asks_opens_the_thinking_once(
    thinking: Path, digits_folder: Path, tmp_path: Path, asked: list[Asked]
) -> None:
    words = [thinking, "--data", digits_folder, "--limit", "2", "--max-new-tokens", "4", "--out", tmp_path / "out"]
    done = invoke("evaluation.cli", *words)
    assert done.returncode == 0, done.stderr
    (batch,) = asked
    assert len(batch.read) == 2
    for text in load_processor(thinking).batch_decode(batch.read):
        assert text.endswith("assistant\n" + OPENING)
        assert text.rpartition("<|im_start|>")[2].count("<think>") == 1


def test_a_cold_start_on_traces_that_the_template_rewrites_is_refused(
    thinking: Path, digits_folder: Path, tmp_path: Path
) -> None:
    words = ["digits", "--model", thinking, "--data", digits_folder, "--cold-start", "--out", tmp_path / "out"]
    assert "rewrites the reasoning of an answer" in refused(invoke("training.cli", *words))
    assert not (tmp_path / "out").exists()
