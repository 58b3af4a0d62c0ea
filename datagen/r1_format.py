"""The R1 format: how every question is asked, and what a well-formed answer looks like.

A full assistant message is one `<think>…</think>` followed by one `<answer>…</answer>`, with nothing but white space
around them after the opening words. The opening words are put into the model's mouth by the chat template (the
"assistant prefix" of DeepSeek-R1-Zero reproductions); see Guo et al. 2025, https://arxiv.org/abs/2501.12948.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

SYSTEM = "You are a helpful assistant. You think before you answer."
PREAMBLE = "Let me solve this step by step.\n"
OPENING = PREAMBLE + "<think>"
# What stands for images and videos in Qwen's models. None may ever be sampled: it claims an image that is not there,
# and the next forward pass crashes, or takes another image for it.
VISION_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
TILE_TOKENS = (  # and in Idefics3's and SmolVLM's, which cut an image into tiles
    *("<image>", "<fake_token_around_image>", "<global-img>"),
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)
OTHER_IMAGE_TOKENS = (  # in Gemma 3's, InternVL's, GLM-V's and LLaVA's
    *("<image_soft_token>", "<start_of_image>", "<end_of_image>"),
    *("<IMG_CONTEXT>", "<img>", "</img>"),
    *("<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
    "<video>",
)
# What tokenizers take for one token that is no text: a model's own words must not become an image, or end a turn.
SPECIAL_TOKENS = re.compile(
    r"<\|[^\s<>|]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk|end_of_utterance|start_of_turn|end_of_turn)>|"
    + "|".join(map(re.escape, VISION_TOKENS + TILE_TOKENS + OTHER_IMAGE_TOKENS))
)
ENDS_WITH_COLON = re.compile(r""":(['"]\s*-?\}\})?\s*\{%-?\s*endif\s*-?%\}\s*$""")
INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)  # 18 digits: int() of a longer text may take long, or refuse
# Around a chat template: what it renders is written without a think block, open or empty, at the end of its prompt.
CAPTURE = "{%- set r1_rendered %}"
WITHOUT_THINK = (
    "{% endset %}{%- set r1_end = r1_rendered.rstrip() %}"
    "{%- set r1_cut = r1_end.removesuffix('</think>').rstrip().removesuffix('<think>') %}"
    "{{- r1_cut if add_generation_prompt and r1_cut != r1_end else r1_rendered }}"
)
# In front of a chat template: what a tool returned is a user's turn, and calls are what was said; nothing is told about
# tools but by the prompt. Most templates of vision-language models leave all of that out.
TOOL_TURNS = (
    "{%- set tools = none %}{%- set r1 = namespace(turns=[], calls='') %}{%- for turn in messages %}"
    "{%- if turn['role'] == 'tool' %}{%- set r1.turns = r1.turns + [{'role': 'user', 'content': turn['content']}] %}"
    "{%- elif turn.get('tool_calls') and not (turn['content'] if turn['content'] is string else "
    "turn['content'] | map(attribute='text', default='') | join) %}{%- set r1.calls = '' %}"
    "{%- for call in turn['tool_calls'] %}{%- set r1.calls = r1.calls ~ call['function'] | tojson %}{%- endfor %}"
    "{%- set r1.turns = r1.turns + [{'role': 'assistant', 'content': [{'type': 'text', 'text': r1.calls}]}] %}"
    "{%- else %}{%- set r1.turns = r1.turns + [turn] %}{%- endif %}{%- endfor %}{%- set messages = r1.turns %}"
)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def make_prompt(question: str, example_answer: str, usage: str = "") -> list[dict[str, str]]:
    """The prompt of a question, in TRL's conversational form: a system and a user message.

    `usage` says what may be asked for before the answer, where a task has several turns.
    """
    instruction = (
        "Show your reasoning in <think> </think> tags, then the answer alone in <answer> </answer> tags, "
        f"for example <answer>{example_answer}</answer>."
    )
    parts = [question, *([usage] if usage else []), instruction]
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "\n".join(parts)}]


def with_image(messages: Sequence[Mapping[str, str]], *image_parts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The prompt as content parts, `image_parts` before the user's text, where TRL's trainers put them."""
    return [
        {
            "role": message["role"],
            "content": [
                *(map(dict, image_parts) if message["role"] == "user" else ()),
                {"type": "text", "text": message["content"]},
            ],
        }
        for message in messages
    ]


def with_opening(chat_template: str) -> str:
    """The Jinja chat template, with the opening words at the end of its generation prompt (once).

    Saved with a checkpoint, it makes the trainer, transformers and vLLM start from the same tokens. A generation prompt
    that ends with a colon (SmolVLM's `Assistant:`) gets a space too, as such templates put one before an answer. One
    that opens the thinking itself (Qwen3-VL-Thinking, GLM-V) loses its `<think>`: the opening words have one.
    """
    if without_opening(chat_template) != chat_template:
        return chat_template
    template = chat_template.rstrip("\n")
    if "<think>" in template:
        template = CAPTURE + template + WITHOUT_THINK
    return template + _opening(" " if ENDS_WITH_COLON.search(chat_template) else "")


def with_tool_turns(chat_template: str) -> str:
    """The Jinja chat template, which renders the turns of tools as those of a user (once)."""
    return chat_template if chat_template.startswith(TOOL_TURNS) else TOOL_TURNS + chat_template


def without_opening(chat_template: str) -> str:
    """The Jinja chat template, without the opening words that `with_opening` has put there."""
    template = chat_template.removesuffix(_opening("")).removesuffix(_opening(" "))
    if template.startswith(CAPTURE) and template.endswith(WITHOUT_THINK):
        return template.removeprefix(CAPTURE).removesuffix(WITHOUT_THINK)
    return template


def _opening(gap: str) -> str:
    return "{%- if add_generation_prompt %}{{- " + json.dumps(gap + OPENING) + " }}{%- endif %}"


def vision_token_ids(vocabulary: Mapping[str, int]) -> list[int]:
    """The ids of those vision tokens that a tokenizer's vocabulary has, to be suppressed when text is generated."""
    names = VISION_TOKENS + TILE_TOKENS + OTHER_IMAGE_TOKENS
    return sorted(vocabulary[token] for token in names if token in vocabulary)


def full_message(completion: str) -> str:
    """The full assistant message of what a model generated after the opening words."""
    return OPENING + completion


def with_reasoning(reasoning: str | None, content: str | None) -> str | None:
    """What a model generated, of a server that gives the reasoning without its tags apart from the content.

    None where it gave neither. An answer that was cut off in its reasoning has no closing tag.
    """
    return f"{reasoning}</think>{content}" if reasoning and content else reasoning or content


def without_special_tokens(message: str) -> str:
    """A message as it goes back to a model: a space stands where it spells a special token."""
    return SPECIAL_TOKENS.sub(" ", message)


def completion_of(message: str) -> str:
    """What a model has to generate after the opening words to say `message`."""
    return message.removeprefix(OPENING)


def format_solution(reasoning: str, answer: str) -> str:
    """A full assistant message in the R1 format."""
    return f"{OPENING}{reasoning}</think>\n<answer>{answer}</answer>"


def parse(message: str) -> tuple[str, str] | None:
    """`(thinking, answer)` of a well-formed message, else None. Linear in the length of any text whatever.

    Tags are counted, not matched by a regular expression: each must occur exactly once, in order, with nothing
    but white space before (after the opening words), between and behind the two blocks.
    """
    if any(message.count(tag) != 1 for tag in TAGS):
        return None
    before, _, rest = message.partition("<think>")
    thinking, closed, rest = rest.partition("</think>")
    between, opened, rest = rest.partition("<answer>")
    answer, ended, behind = rest.partition("</answer>")
    if not (closed and opened and ended):  # all four are there, but in another order
        return None
    if before.removeprefix(PREAMBLE).strip() or between.strip() or behind.strip():
        return None
    return thinking, answer


def extract_answer(message: str) -> str | None:
    """The text of the message's only answer block, or None where it has none or several."""
    if message.count("<answer>") != 1 or message.count("</answer>") != 1:
        return None
    _, _, rest = message.partition("<answer>")
    answer, ended, _ = rest.partition("</answer>")
    return answer.strip() if ended else None


def read_integer(text: str | None) -> int | None:
    """The integer that the text is, in ASCII digits; None where it is anything else."""
    return int(text) if text is not None and INTEGER.fullmatch(text := text.strip()) else None


def spell_out(text: str) -> str:
    """The characters with spaces between them; a space is written `_`."""
    return " ".join(text.replace(" ", "_"))


def format_reward(message: str, example: Mapping[str, Any]) -> float:
    """1.0 for a well-formed message with a non-empty answer, else 0.0."""
    parsed = parse(message)
    return float(parsed is not None and parsed[1].strip() != "")
