"""One self-contained HTML page: the numbers, the reward curve, and what the model wrote, beside the images."""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen import r1
from datagen.cards import percent
from datagen.files import write_text
from evaluation.compare import certainty, headline, p_text
from evaluation.curve import make_curve
from evaluation.outcome import Outcome
from evaluation.plan import Plan

if TYPE_CHECKING:
    from PIL.Image import Image

TEMPLATE = "report.html.jinja"
EXAMPLES = 24  # of each kind
SHORT, LONG = 200, 1200  # characters of a model's answer and of its message that are shown
SIDE, BYTES = 384, 60_000  # pixels and bytes of an image: 48 of them, as base64, stay below 5 MB
STAGES = {"base": "base model", "cold-start": "cold start", "grpo": "GRPO"}


def write_report(path: Path, plan: Plan, outcome: Outcome) -> None:
    """Write the page, in one step."""
    write_text(path, render(plan, outcome))


def render(plan: Plan, outcome: Outcome) -> str:
    """The page as HTML. Every text in it is escaped, and none holds a control character."""
    from importlib.resources import files

    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined,
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,  # what a macro gives is Markup already
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, points=points, p=p_text)
    template = environment.from_string(files("evaluation").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    comparison = outcome.comparison
    return template.render(
        dataset=plan.dataset.spec.name,
        difficulty=plan.dataset.spec.difficulty,
        plan=plan,
        results=outcome.results,
        comparison=comparison,
        shown=comparison or outcome.results["after"],
        headline=headline(comparison) if comparison else None,
        certainty=certainty(comparison) if comparison else None,
        stages=STAGES,
        curve=make_curve(plan.metrics) if plan.metrics else None,
        groups=[
            {"title": title, "total": len(places), "examples": [example(outcome, i) for i in places[:EXAMPLES]]}
            for title, places in kinds(outcome).items()
        ],
    )


def points(share: float) -> str:
    """A difference of two shares in points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def kinds(outcome: Outcome) -> dict[str, list[int]]:
    """The places of the questions that are shown as examples, by kind: what flipped, or without a baseline, what is."""
    after = outcome.scored["after"].correctness == 1
    if "before" in outcome.scored:
        before = outcome.scored["before"].correctness == 1
        chosen = {"From wrong to right": ~before & after, "From right to wrong": before & ~after}
    else:
        chosen = {"Wrong answers": ~after, "Right answers": after}
    return {title: [int(i) for i in mask.nonzero()[0]] for title, mask in chosen.items()}


def example(outcome: Outcome, place: int) -> dict[str, Any]:
    """What the page shows of one question."""
    row = outcome.row(place)
    return {
        "id": row["id"],
        "task": row["task"],
        "question": row["prompt"][-1]["content"].split("\n")[0],
        "answer": row["answer"],
        "image": data_url(row["image"]),
        "sides": [
            {"name": name, **said(scored.messages[place], scored.rewards[place])}
            for name, scored in outcome.scored.items()
        ],
    }


def said(message: str, rewards: Mapping[str, float]) -> dict[str, Any]:
    """A message as the page shows it: what follows the opening words, shortened, its answer, and its rewards."""
    answer = r1.answer_of(message)
    return {
        "text": shortened(r1.completion_of(message), LONG),
        "answer": None if answer is None else shortened(answer, SHORT),
        "rewards": rewards,
        "right": rewards["correctness"] == 1,
    }


def shortened(text: str, length: int) -> str:
    """The beginning of `text`, with a note of how many characters are left out."""
    return text if len(text) <= length else f"{text[:length]} … [{len(text) - length} more characters]"


def visible(text: str) -> str:
    """`text` with each character that can't be seen, or that moves others, as its code point.

    Control and format characters (also those that turn the direction of writing), halves of surrogate pairs and
    unassigned code points; line feeds and tabs stay.
    """
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if character in "\n\t" or not unicodedata.category(character).startswith("C"):
        return character
    return f"\N{MATHEMATICAL LEFT ANGLE BRACKET}U+{ord(character):04X}\N{MATHEMATICAL RIGHT ANGLE BRACKET}"


def data_url(image: Image) -> str:
    """The image inside a URL: as PNG, or where that is large, scaled down or as JPEG."""
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    for kind, options in _encodings():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        if buffer.tell() <= BYTES:
            break
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _encodings() -> Iterable[tuple[str, dict[str, Any]]]:
    yield "PNG", {"optimize": True}
    for quality in (85, 60, 30, 10):
        yield "JPEG", {"quality": quality}
