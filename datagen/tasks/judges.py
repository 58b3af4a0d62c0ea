"""Questions about your own images, whose rows `r1vlm-data import` makes: a dataset a judge, and one of several images.

A judge compares the answer of a message with the `answer` of a row. Both are read by the same function, which gives
None for anything that it can't read, in a time that a bound on the length of answers bounds. What a row's judge needs
beside the answer stands in the row: `tolerance`, and `choices`.
"""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datagen.r1_format import extract_answer, format_reward, parse, read_integer
from datagen.task import Column, DatasetSpec, GroundTruth, Reward, Task

LONGEST = 10_000  # characters of an answer
MOST_ITEMS = 200  # items, boxes or points of a right answer
LARGEST = 1e6  # of a coordinate, in pixels
LARGEST_FLOAT = 1e15  # up to which a float holds every integer
QUOTES = "\"'`“”‘’«»"
SPACES = " \u00a0\u2009\u202f"  # also between the digits of a number
NUMBER = re.compile(
    rf"([+-]?)([$€£¥]?)((?:[0-9]{{1,3}}(?:[,{SPACES}][0-9]{{3}}){{1,6}}|[0-9]{{1,30}})?(?:\.[0-9]{{1,30}})?)(e[+-]?[0-9]{{1,2}})?"
    rf"[{SPACES}]?([^\W\d_][\w./°²³·^-]{{0,19}}|[%°]\w?)?",
    re.IGNORECASE,
)
LETTER = re.compile(r"\(?([A-Za-z])(?:[).:]\s*(.*))?", re.DOTALL)
FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
CLOSE = 0.5  # a box is found, and a transcription is worth something, from here on


def read_text(text: str) -> str:
    """A text in the form in which two are compared: letter case, white space, quotes and a last full stop go."""
    plain = " ".join(unicodedata.normalize("NFC", text).split()).strip(QUOTES + " ")
    return plain.removesuffix(".").rstrip(QUOTES + " ").casefold()


def read_number(text: str) -> tuple[float, str] | None:
    """(number, unit) of a text such as `-1,234.5`, `1e3`, `$5`, `40 %` or `3 km/h`; None for anything else.

    Thousands are separated by commas or spaces, the decimals by a full stop; digits are ASCII.
    """
    match = NUMBER.fullmatch(text.strip().replace("\u2212", "-")) if len(text) <= 100 else None
    if match is None or not any(map(str.isdigit, match[3])):
        return None
    sign, currency, digits, exponent, unit = (part or "" for part in match.groups())
    if currency and unit:
        return None
    digits = re.sub(rf"[,{SPACES}]", "", digits)
    return float(f"{sign}{digits}{exponent}"), currency or unit.casefold()


def read_items(text: str) -> list[Any] | None:
    """The items of a list: JSON, or texts with commas between them, brackets optional; None where there is none.

    Numbers that are equal are equal items however they are written; texts are compared as `read_text` has them.
    """
    items = read_json(text)
    if not isinstance(items, list):
        inner = text.strip()
        if inner[:1] in ("[", "{", "("):
            inner = inner[1:-1] if inner[-1:] in ("]", "}", ")") else ""
        items = inner.split(",")
        if not all(map(str.strip, items)):
            return None
    if not all(isinstance(item, str | int | float | bool) for item in items):
        return None
    return [_item(str(item)) for item in items]


def _item(text: str) -> Any:
    number = read_number(text)
    return number if number is not None and not number[1] else read_text(text)


def read_json(text: str) -> Any:
    """The value of a JSON text, also in a Markdown fence; numbers are texts; None where it is no JSON."""
    fenced = FENCE.fullmatch(text.strip())
    try:
        return json.loads(fenced[1] if fenced else text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True)
class Place:
    """A box (four numbers) or a point (two) in pixels, and its label, empty where it has none."""

    numbers: tuple[float, ...]
    label: str


def read_places(text: str) -> list[Place | None] | None:
    """The boxes and points of a JSON list, or None where it is none; what is no box or point in it is None.

    Each is `{"bbox_2d": [x1, y1, x2, y2], "label": "cat"}` or `{"point_2d": [x, y], "label": "cat"}`, as Qwen writes
    them, the label optional; or the numbers alone. A single one needs no list around it.
    """
    value = read_json(text)
    if isinstance(value, dict) or (isinstance(value, list) and value and not isinstance(value[0], dict | list)):
        value = [value]
    return [_place(one) for one in value] if isinstance(value, list) else None


def _place(value: Any) -> Place | None:
    label = ""
    if isinstance(value, dict):
        label = value.get("label", "")
        value = value.get("bbox_2d", value.get("point_2d"))
    if not isinstance(value, list) or len(value) not in (2, 4) or not isinstance(label, str):
        return None
    read = [read_number(one) if isinstance(one, str) else None for one in value]
    numbers = tuple(one[0] for one in read if one is not None and not one[1] and abs(one[0]) < LARGEST)
    if len(numbers) != len(value) or (len(numbers) == 4 and not (numbers[0] < numbers[2] and numbers[1] < numbers[3])):
        return None
    return Place(numbers, read_text(label))


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes `x1, y1, x2, y2`."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(0.0, width) * max(0.0, height)
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return common / (sum(areas) - common)


def match_places(
    given: Sequence[Place | None], right: Sequence[Place], worth: Callable[[Place, Place], float]
) -> float:
    """2 x (sum of the worth of the best one-to-one matching) / (number given + number right); 1.0 of nothing in both.

    Only as many as there are right ones may match, the first ones: each further one costs, wherever it is.
    """
    if not given and not right:
        return 1.0
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    table = np.zeros((len(given[: len(right)]), len(right)))
    for i, one in enumerate(given[: len(right)]):
        for j, other in enumerate(right):
            if one is not None and other.label in ("", one.label):
                table[i, j] = worth(one, other)
    return float(2 * table[linear_sum_assignment(table, maximize=True)].sum() / (len(given) + len(right)))


def _given(message: str) -> str | None:
    answer = extract_answer(message)
    return answer if answer and len(answer) <= LONGEST else None


def exact_correct(message: str, example: GroundTruth) -> float:
    """1.0 where the answer is the right text; letter case, white space, quotes and a last full stop do not count."""
    given = _given(message)
    return float(given is not None and read_text(given) == read_text(example["answer"]))


def _lone_letter(text: str) -> int:
    """The number, from 0 on, of the letter that a text is (`B`, `(B)`, `B.`); -1 where it is anything else."""
    match = LETTER.fullmatch(text)
    return ord(match[1].upper()) - ord("A") if match and not match[2] else -1


def choice_correct(message: str, example: GroundTruth) -> float:
    """1.0 where the answer is the letter of the right choice (`B`, `(B)`, `B. text`), or its text, or both.

    A letter alone is the choice of that letter, also where it is the text of another one.
    """
    given = _given(message)
    if given is None:
        return 0.0
    answer, choices = example["answer"], example["choices"]
    right = "ABCDEFGHIJKLMNOPQRSTUVWXYZ".find(answer) if len(answer) == 1 else -1
    text = read_text(choices[right]) if 0 <= right < len(choices) else None if right >= 0 else read_text(answer)
    match, named = LETTER.fullmatch(given), _lone_letter(given)
    if text is not None and read_text(given) == text and (named == right or not 0 <= named < len(choices)):
        return 1.0
    if match is None or right < 0 or match[1].upper() != answer:
        return 0.0
    return float(not match[2] or read_text(match[2]) == text)


def integer_correct(message: str, example: GroundTruth) -> float:
    """1.0 where the answer is the right integer, in ASCII digits."""
    given = read_integer(extract_answer(message))
    return float(given is not None and given == int(example["answer"]))


def number_correct(message: str, example: GroundTruth) -> float:
    """1.0 where the answer is the right number, at most `tolerance` off; thousands may be separated.

    The unit may be left out, and must be the right one where it is there. 40 % is 40, and 0.4.
    """
    given, right = read_number(_given(message) or ""), read_number(example["answer"])
    if given is None or right is None:
        return 0.0
    (value, unit), (wanted, wanted_unit) = given, right
    if unit not in ("", wanted_unit) and (unit, wanted_unit) != ("%", ""):
        return 0.0
    scale = {("", "%"): 100.0, ("%", ""): 0.01}.get((unit, wanted_unit), 1.0)
    margin = example["tolerance"] * (1 + 1e-9)
    return float(any(math.isclose(one, wanted, rel_tol=1e-9, abs_tol=margin) for one in (value, scale * value)))


def list_correct(message: str, example: GroundTruth) -> float:
    """1.0 where the answer is the right items in the right order, as JSON or with commas between them."""
    given = read_items(_given(message) or "")
    return float(given is not None and given == read_items(example["answer"]))


def set_correct(message: str, example: GroundTruth) -> float:
    """1.0 where the answer is the right items in any order, as JSON or with commas; repeats do not count."""
    given, right = read_items(_given(message) or ""), read_items(example["answer"])
    return float(given is not None and right is not None and set(given) == set(right))


def text_correct(message: str, example: GroundTruth) -> float:
    """1.0 where the answer is the right text, letter by letter; only white space may differ."""
    given = _given(message)
    return float(given is not None and _letters(given) == _letters(example["answer"]))


def edit(message: str, example: GroundTruth) -> float:
    """1 - (Levenshtein distance / length of the right text), or 0.0 where that is below a half."""
    from rapidfuzz.distance import Levenshtein

    given, right = _letters(_given(message) or ""), _letters(example["answer"])
    if not given:
        return 0.0
    most = int(len(right) * (1 - CLOSE))
    distance = Levenshtein.distance(given, right, score_cutoff=most)
    return 1 - distance / len(right) if distance <= most else 0.0


def _letters(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def boxes(message: str, example: GroundTruth) -> float:
    """Twice the summed overlap (IoU) of matched boxes, over the number given and the number of right ones.

    A box matches one right box, of its label, with which its intersection over union is a half or more; coordinates are
    pixels of the image.
    """
    return _matched(message, example, _box_worth)


def boxes_correct(message: str, example: GroundTruth) -> float:
    """1.0 where every right box is matched (see `boxes`) and there is no other."""
    return float(_matched(message, example, lambda *pair: float(_box_worth(*pair) > 0)) == 1.0)


def points(message: str, example: GroundTruth) -> float:
    """F1 of the points in the answer, matched one to one.

    A point matches a right point, of its label, that is at most `tolerance` pixels away, or a right box in which it is.
    """
    return _matched(message, example, lambda one, other: _point_worth(one, other, example["tolerance"]))


def points_correct(message: str, example: GroundTruth) -> float:
    """1.0 where every right point is matched (see `points`) and there is no other."""
    return float(points(message, example) == 1.0)


def _matched(message: str, example: GroundTruth, worth: Callable[[Place, Place], float]) -> float:
    given, right = read_places(_given(message) or ""), read_places(example["answer"])
    if given is None or right is None:
        return 0.0
    return match_places(given, [one for one in right if one is not None], worth)


def _box_worth(one: Place, other: Place) -> float:
    share = overlap(one.numbers, other.numbers) if len(one.numbers) == len(other.numbers) == 4 else 0.0
    return share if share >= CLOSE else 0.0


def _point_worth(one: Place, other: Place, tolerance: float) -> float:
    if len(one.numbers) != 2:
        return 0.0
    x, y = one.numbers
    if len(other.numbers) == 4:
        x1, y1, x2, y2 = other.numbers
        return float(x1 <= x < x2 and y1 <= y < y2)
    return float(math.dist(one.numbers, other.numbers) <= tolerance * (1 + 1e-9))


class UnreadableError(ValueError):
    """An answer that a judge can't read; the text says why, without the answer."""


def _as_text(value: Any) -> str:
    """A value of a table as the text that a judge reads."""
    if isinstance(value, str):
        return value.strip()
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else as_written(value)


def as_written(value: Any) -> str:
    """A text or number of a table as somebody writes it: 7 for 7.0, since a table with gaps holds its integers so."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < LARGEST_FLOAT
    return str(int(value) if whole else value)


def _prepare_text(value: Any, _: Sequence[str]) -> str:
    text = _as_text(value)
    if not read_text(text):
        raise UnreadableError("it is empty")
    return text


def _prepare_choice(value: Any, choices: Sequence[str]) -> str:
    if not choices:
        text = _prepare_text(value, choices)
        named = _lone_letter(text)
        return chr(ord("A") + named) if named >= 0 else text
    texts = [read_text(choice) for choice in choices]
    if len(set(texts)) < len(texts) or len(texts) > 26 or not all(texts):
        raise UnreadableError("its choices are empty, more than 26, or not all different")
    named, text = _lone_letter(_as_text(value)), read_text(_as_text(value))
    if isinstance(value, int) and not isinstance(value, bool):
        index = value
        if text in texts and texts.index(text) != index:
            raise UnreadableError("it is the text of one choice and, counted from 0 on, the number of another")
    elif text in texts:
        index = texts.index(text)
        if named != index and 0 <= named < len(texts):
            raise UnreadableError("it is the text of one choice and the letter of another")
    else:
        index = named
    if not 0 <= index < len(texts):
        raise UnreadableError("it is none of the choices, no letter of one, and no number of one from 0 on")
    return chr(ord("A") + index)


def _prepare_integer(value: Any, _: Sequence[str]) -> str:
    text = _as_text(value)
    if re.fullmatch(r"[+-]?[0-9]{1,18}\.0+", text, re.ASCII):  # a table with gaps holds its integers so
        text = text.partition(".")[0]
    number = read_integer(text)
    if number is None:
        raise UnreadableError("it is no integer")
    return str(number)


def _prepare_number(value: Any, _: Sequence[str]) -> str:
    text = _as_text(value)
    if read_number(text) is None:
        raise UnreadableError("it is no number such as -1,234.5 or 3 km")
    return text


def _prepare_items(value: Any, _: Sequence[str]) -> str:
    text = _as_text(value)
    text = _as_json(text) if read_json(text) is None else text
    items = read_items(text)
    if items is None or len(items) > MOST_ITEMS:
        raise UnreadableError(f"it is no list of at most {MOST_ITEMS} texts or numbers")
    return text


def _as_json(text: str) -> str:
    """A list as Python writes it, and pandas into a CSV (`['a, b', '2']`), as JSON; any other text as it is."""
    if text[:1] not in ("[", "(") or len(text) > LONGEST:
        return text
    try:
        with warnings.catch_warnings(action="ignore"):  # of an escape that Python does not know
            value = ast.literal_eval(text)
        return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple) else text
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def _prepare_places(value: Any, _: Sequence[str]) -> str:
    text = _as_text(value)
    places = read_places(text)
    if places is None or None in places or len(places) > MOST_ITEMS:
        raise UnreadableError(f"it is no list of at most {MOST_ITEMS} boxes or points in pixels")
    return text


def _prepare_boxes(value: Any, choices: Sequence[str]) -> str:
    text = _prepare_places(value, choices)
    if any(place is not None and len(place.numbers) == 2 for place in read_places(text) or ()):
        raise UnreadableError("it holds a point, where boxes x1, y1, x2, y2 are wanted")
    return text


@dataclass(frozen=True)
class Judge:
    """How answers are judged.

    `prepare` makes the text of a right answer of a table's value and the choices, and raises `UnreadableError` where
    it can't. `form` is how an answer looks, and never right. `rewards` are those beside the format. `samples` are
    questions with answers that no attack gives by chance: what the rewards are audited on.
    """

    name: str
    summary: str
    form: str
    prepare: Callable[[Any, Sequence[str]], str]
    rewards: Mapping[str, Reward]
    samples: tuple[tuple[str, str], ...]


JUDGES = {
    judge.name: judge
    for judge in (
        Judge(
            "exact",
            "The answer is a text; letter case and white space do not count.",
            "the answer",
            _prepare_text,
            {"correctness": exact_correct},
            (("What is this?", "a red bicycle"), ("Which city is it?", "Vienna")),
        ),
        Judge(
            "choice",
            "The answer is one of some choices: its letter, or its text.",
            "the letter",
            _prepare_choice,
            {"correctness": choice_correct},
            (("Which is it?", "C"), ("Which animal is it?", "a grey heron")),
        ),
        Judge(
            "integer",
            "The answer is an integer.",
            "a whole number",
            _prepare_integer,
            {"correctness": integer_correct},
            (("How many are there?", "17"), ("Which year is it?", "1984")),
        ),
        Judge(
            "number",
            "The answer is a number, with a tolerance; its unit is optional.",
            "a number",
            _prepare_number,
            {"correctness": number_correct},
            (("How long is it?", "1,234.5 mm"), ("What share is it?", "37.5 %"), ("How cold is it?", "-273.15")),
        ),
        Judge(
            "list",
            "The answer is a list of texts or numbers, in order.",
            '["first", "second"]',
            _prepare_items,
            {"correctness": list_correct},
            (("Which colours, from left to right?", '["red", "green", "red"]'), ("Which numbers?", "[7, 30, 2]")),
        ),
        Judge(
            "set",
            "The answer is a set of texts or numbers, in any order.",
            '["one", "another"]',
            _prepare_items,
            {"correctness": set_correct},
            (("Which colours?", '["red", "green"]'), ("Which numbers?", "[7, 30, 2]")),
        ),
        Judge(
            "edit",
            "The answer is a transcription: what counts is how few letters differ.",
            "the text",
            _prepare_text,
            {"correctness": text_correct, "edit": edit},
            (("What does it say?", "The quick brown fox jumps over the lazy dog, and runs."),),
        ),
        Judge(
            "boxes",
            "The answer is boxes in pixels, as Qwen writes them.",
            '[{"bbox_2d": [x1, y1, x2, y2]}]',
            _prepare_boxes,
            {"correctness": boxes_correct, "boxes": boxes},
            (
                ("Where are the cats?", '[{"bbox_2d": [310, 205, 355, 260], "label": "cat"}, [411, 20, 460, 99]]'),
                ("Where is it?", "[[301, 222, 388, 290]]"),
            ),
        ),
        Judge(
            "points",
            "The answer is points in pixels, as Qwen writes them.",
            '[{"point_2d": [x, y]}]',
            _prepare_places,
            {"correctness": points_correct, "points": points},
            (
                ("Where are the cats?", '[{"point_2d": [310, 205], "label": "cat"}, [411, 220]]'),
                ("Where is it?", "[[301, 222]]"),
            ),
        ),
    )
}

COLUMNS = {
    "id": Column("string", "the row's name: dataset, and number of the row in the table it came from"),
    "image": Column("image", "PNG, JPEG or WebP; RGB as `datasets` decodes it"),
    "image_id": Column("string", "the first row with the same pixels: rows with one image_id show one image"),
    "pixels": Column("string", "the image: XXH3 (128 bits) of its size and its pixels as RGB"),
    "group": Column("string", "what may not be in two splits: a group of the table's rows, else the image"),
    "question": Column("string", "the question"),
    "right": Column("string", "the right answer, as its judge reads it"),
    "trace": Column("string", "the reasoning of the solution; empty where the table has none"),
    "choices": Column(["string"], "the texts of the choices, the first is A; empty where there are none"),
    "tolerance": Column("float64", "how far off a number (in its unit) or a point (in pixels) may be"),
    "difficulty": Column("float64", "the difficulty; 0 where the table has none"),
}

OF_SEVERAL = {
    "images": Column(["image"], "PNG, JPEG or WebP, in the order in which they are shown; RGB in `datasets`"),
    "image_id": Column("string", "the first of the rows that images connect: rows with one image_id may share images"),
    "pixels": Column(["string"], "each image: XXH3 (128 bits) of its size and its pixels as RGB"),
    "group": Column("string", "what may not be in two splits: a group of the table's rows, else the first image"),
}
PLACES = ("boxes", "points")  # judges of answers in pixels, which are those of the only image


def _dataset(judge: Judge, *, several: bool = False) -> DatasetSpec:
    name = own_name(judge.name, several=several)
    shown = "images" if several else "image"
    columns = {shown if key == "image" else key: column for key, column in COLUMNS.items()}
    columns |= OF_SEVERAL if several else {}
    about = "several images of your own a question" if several else "images of your own"
    return DatasetSpec(
        name=name,
        version="1",
        summary=f"{about}; {judge.summary[:1].lower()}{judge.summary[1:].removesuffix('.')}",
        draw=None,
        sources=("own-images",),
        options=(),
        raw_columns=columns,
        r1_columns=(shown, "group", "choices", "tolerance", "difficulty"),
        difficulty="difficulty",
        disjoint=("pixels", "group"),
        tasks=(
            Task(
                name=name,
                summary=judge.summary,
                ask=lambda example: str(example["question"]),
                example_answer=judge.form,
                answer=lambda example: str(example["right"]),
                solve=lambda example: str(example["trace"]),
                rewards={"format": format_reward, **judge.rewards},
            ),
        ),
        several_images=several,
    )


def own_name(judge: str, *, several: bool) -> str:
    """The name of the dataset of a judge, of one image a question or of several."""
    return f"own-{judge}{'-images' if several else ''}"


OWN = {
    spec.name: spec
    for spec in (
        *map(_dataset, JUDGES.values()),
        *(_dataset(judge, several=True) for judge in JUDGES.values() if judge.name not in PLACES),
    )
}
"""The datasets of your own images by name: one a judge, and one a judge for several images a question."""


def split_solution(text: str, answer: str) -> str:
    """The reasoning of a solution: of a message in the R1 format, or all of a text, before which it is put."""
    parsed = parse(text)
    return parsed[0] if parsed is not None and parsed[1].strip() == answer.strip() else text.strip()


def sample_rows(judge: Judge) -> list[dict[str, Any]]:
    """The judge's samples as rows of `raw`, without images."""
    return [
        {
            "id": f"sample-{number}",
            "image": {"bytes": b"", "path": None},
            "images": [{"bytes": b"", "path": None}] * 2,
            "image_id": f"sample-{number}",
            "pixels": str(number),
            "group": str(number),
            "question": question,
            "right": answer,
            "trace": "I look at the image. That is all there is.",
            "choices": ["a robin", "a wren", "a grey heron"] if answer == "C" else [],
            "tolerance": 0.5 if judge.name in ("number", "points") else 0.0,
            "difficulty": 0.0,
        }
        for number, (question, answer) in enumerate(judge.samples)
    ]
