"""One self-contained HTML page: the numbers, the curves, and what the model wrote, with the images."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen import r1_format
from datagen.common.files import write_text
from datagen.common.formatting import percent, visible
from datagen.interaction import Episode, question_images
from datagen.registry import find_task
from datagen.taskset.play import reply_of
from evaluation.config import EvalPlan
from evaluation.metrics.comparison import asked, certainty, headline, p_text
from evaluation.prompt_variants import without_usage
from evaluation.report.checkpoint_samples import CheckpointSamples
from evaluation.report.curves import LENGTHS, make_curve
from evaluation.report.look_ups import LookUps
from evaluation.report.results import EvalResult
from evaluation.report.tables import shown_rewards

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATE, SCRIPT = "report.html.jinja", "report.js"
EXAMPLES = 20  # of each kind
SHORT, LONG = 200, 1200  # characters of a model's answer and of its message that are shown
SIDE, BYTES = 384, 30_000  # pixels of an image, bytes of a question's images: all, as base64, stay below 4 MB
STAGES = {"base": "base model", "cold-start": "cold start", "grpo": "GRPO"}


def write_report(
    path: Path, plan: EvalPlan, result: EvalResult, samples: CheckpointSamples | None, look_ups: LookUps | None = None
) -> None:
    """Write the page, in one step. `samples` are answers of earlier checkpoints, where there are any."""
    write_text(path, render(plan, result, samples, look_ups))


def render(
    plan: EvalPlan, result: EvalResult, samples: CheckpointSamples | None, look_ups: LookUps | None = None
) -> str:
    """The page as HTML. Every text in it is escaped, and none holds a control character.

    Its only script is ours: the page names the script's hash, and a browser runs no other.
    """
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        undefined=StrictUndefined,
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # what a macro gives is Markup already
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, points=points, p=p_text, asked=asked)
    template, script = (
        files("evaluation.report").joinpath(name).read_text(encoding="utf-8") for name in (TEMPLATE, SCRIPT)
    )
    comparison = result.comparison
    difficulty = plan.dataset.spec.difficulty
    groups = group_by_outcome(result)
    return environment.from_string(
        template
    ).render(
        dataset=plan.dataset.spec.name,
        difficulty=difficulty,
        script=Markup(script),  # noqa: S704 - it is a file of ours
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        plan=plan,
        results=result.results,
        comparison=comparison,
        summary=result.summary,
        asked=asked(result.summary),
        shown_rewards=shown_rewards(result.summary["rewards"]),
        headline=headline(comparison) if comparison else None,
        certainty=certainty(comparison) if comparison else None,
        stages=STAGES,
        rewards_curve=make_curve(plan.metrics) if plan.metrics else None,
        lengths_curve=make_curve(plan.metrics, LENGTHS, 0.0) if plan.metrics else None,
        samples=render_samples(result, samples) if samples else None,
        look_ups=render_look_ups(result, look_ups) if look_ups and look_ups.strips else None,
        totals={kind: len(indices) for kind, indices in groups.items()},
        examples=[
            {"kind": kind, **render_example(result, index, difficulty)}
            for kind, indices in groups.items()
            for index in indices[:EXAMPLES]
        ],
        at_most=EXAMPLES,
    )


def points(share: float) -> str:
    """A difference of two shares in points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def group_by_outcome(result: EvalResult) -> dict[str, list[int]]:
    """The indices of all answers by what became of the question: without a baseline, by whether they are right."""
    after = result.scored["after"].correctness == 1
    if "before" in result.scored:
        before = result.scored["before"].correctness == 1
        masks = {
            "from wrong to right": ~before & after,
            "from right to wrong": before & ~after,
            "wrong both times": ~before & ~after,
            "right both times": before & after,
        }
    else:
        masks = {"wrong": ~after, "right": after}
    return {kind: [int(i) for i in mask.nonzero()[0]] for kind, mask in masks.items()}


def render_example(result: EvalResult, index: int, difficulty: str) -> dict[str, Any]:
    """What the page shows of the answer at `index`: of two sides, also which words are not those of the other."""
    row = result.row(index)
    sides = [
        {"name": name, **render_episode(scored.episodes[index], scored.rewards[index], row)}
        for name, scored in result.scored.items()
    ]
    texts = [side["text"] for side in sides]
    parts = differing(texts[0], texts[1]) if len(texts) == 2 else [[(False, text)] for text in texts]
    for side, words in zip(sides, parts, strict=True):
        side["parts"] = words
    return {"level": row[difficulty], **render_question(row), "sides": sides}


def render_question(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a question."""
    images = question_images(row)
    return {
        "id": row["id"],
        "task": row["task"],
        "question": shortened(question_text(row), LONG),
        "answer": row["answer"],
        "images": [image_url(image, BYTES // len(images)) for image in images],
    }


def question_text(row: Mapping[str, Any]) -> str:
    """What is asked, also on several lines (choices stand on their own), without the instruction behind it."""
    text: str = row["prompt"][-1]["content"]
    if not find_task(row["task"]).example_answer:  # somebody else's taskset has no such instruction
        return text
    return without_usage(text, row).rpartition("\n")[0]


def render_episode(episode: Episode, rewards: Mapping[str, float], row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of an episode: its last message, shortened, the answer in it, and its rewards.

    `turns` are the messages before, each with what came back. All follow the opening words.
    """
    asks_our_way = bool(find_task(row["task"]).example_answer)  # somebody else's taskset wants no answer block
    answer = r1_format.extract_answer(episode.final) if asks_our_way else reply_of(episode.final)["content"]
    return {
        "turns": [
            {
                "text": shortened(r1_format.completion_of(message), LONG),
                "seen": seen.text,
                "image": None if seen.image is None else image_url(seen.image),
            }
            for message, seen in zip(episode.messages, episode.observations, strict=False)
        ],
        "text": shortened(r1_format.completion_of(episode.final), LONG),
        "answer": None if answer is None else shortened(answer, SHORT),
        "rewards": rewards,
        "right": rewards["correctness"] == 1,
    }


def render_samples(result: EvalResult, samples: CheckpointSamples) -> dict[str, Any]:
    """What the page shows of checkpoints: their names with how many answers are right, and each question's answers."""
    return {
        "checkpoints": [(name, int((scored.correctness == 1).sum())) for name, scored in samples.scored.items()],
        "questions": [
            {
                **render_question(result.rows[index]),
                "answers": [
                    render_episode(scored.episodes[i], scored.rewards[i], result.rows[index])
                    for scored in samples.scored.values()
                ],
            }
            for i, index in enumerate(samples.indices)
        ],
    }


def render_look_ups(result: EvalResult, look_ups: LookUps) -> dict[str, Any]:
    """What the page shows of look-ups."""
    return {
        "heads": str(look_ups.heads),
        "strips": [
            {"id": result.row(strip.index)["id"], "looks": [(text, image_url(image)) for text, image in strip.looks]}
            for strip in look_ups.strips
        ],
    }


def differing(before: str, after: str) -> list[list[tuple[bool, str]]]:
    """The two texts in pieces, each with whether it is in this one alone; word by word, in the order they stand."""
    words = [re.findall(r"\w+|\s+|[^\w\s]", text) for text in (before, after)]
    pieces: list[list[tuple[bool, str]]] = [[], []]
    for kind, *ends in SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes():
        for side, (low, high) in enumerate((ends[:2], ends[2:])):
            if low < high:
                pieces[side].append((kind != "equal", "".join(words[side][low:high])))
    return pieces


def shortened(text: str, length: int) -> str:
    """The beginning of `text` as it can be seen, with a note of how many characters are left out."""
    start = visible(text[:length])[:length]
    return start if len(text) <= length else f"{start} … [{len(text) - length} more characters]"


def image_url(image: Image, most: int = BYTES) -> str:
    """The image inside a URL: as PNG, or where that has more bytes than `most`, as JPEG; never larger than `SIDE`."""
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    for kind, options in _encodings():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        if buffer.tell() <= most:
            break
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _encodings() -> Iterable[tuple[str, dict[str, Any]]]:
    yield "PNG", {"optimize": True}
    for quality in (85, 60, 30, 10):
        yield "JPEG", {"quality": quality}
