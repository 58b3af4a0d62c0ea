"""Files of completions: JSON lines `{"id": …, "completion": …}`, each with a full assistant message.

Of a task of several turns that is the last message; `turns` are those before, each with the call in it, whether it was
accepted, and the SHA-256 of the image that came back. Only the messages count when they are read again: what came back
is made anew, and has to have the same hash.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.common.errors import UserError
from datagen.common.files import open_file, write_text
from datagen.interaction import Episode, parse_call
from datagen.r1_format import PREAMBLE, full_message

if TYPE_CHECKING:
    from PIL.Image import Image

END_OF_TURN = re.compile(r"(<\|im_end\|>|<\|endoftext\|>|<end_of_utterance>|<\|eot_id\|>|<end_of_turn>|</s>)\s*\Z")
STARTS = (PREAMBLE.strip(), "<think>")
LONGEST_LINE = 1 << 24  # characters
SampleKey = tuple[str, int]
"""The id of a question, and the number of the sample."""


@dataclass(frozen=True)
class Recorded:
    """The messages of one line, the completion last, and for each turn before it the hash of its image, where named."""

    messages: list[str]
    images: list[str | None]


def write_completions(path: Path, ids: Sequence[str], episodes: Sequence[Episode]) -> None:
    """Write an episode for each id, in one step. Further ones for an id are its samples 1, 2, ….

    As ASCII: a message may hold any code point JSON can name, and half a surrogate pair has no UTF-8.
    """
    lines = [
        json.dumps({"id": name, **({"sample": sample} if sample else {}), **_entry(episode)}) + "\n"
        for (name, sample), episode in zip(sample_keys(ids), episodes, strict=True)
    ]
    write_text(path, "".join(lines))


def _entry(episode: Episode) -> dict[str, Any]:
    turns = [
        {
            "completion": said,
            "call": parse_call(said),
            "ok": seen.ok,
            **({"text": seen.text} if seen.text else {}),
            **({"image": image_hash(seen.image)} if seen.image is not None else {}),
        }
        for said, seen in zip(episode.messages, episode.observations, strict=False)
    ]
    return {"completion": episode.final, **({"turns": turns} if turns else {})}


def image_hash(image: Image) -> str:
    """SHA-256 of the pixels, as 64 hexadecimal digits."""
    return hashlib.sha256(image.tobytes()).hexdigest()


def check_images(path: Path, name: str, recorded: Recorded, episode: Episode) -> None:
    """Check that the images in an episode, which was played again, are those that the model was shown.

    Raises:
        UserError: where one is another one.
    """
    for turn, (digest, seen) in enumerate(zip(recorded.images, episode.observations, strict=False), start=1):
        if digest is not None and (seen.image is None or digest != image_hash(seen.image)):
            raise UserError(
                f"turn {turn} of the answer to {name!r} in {path} shows another image than this dataset does: name the "
                "dataset that was asked about with --data"
            )


def sample_keys(ids: Sequence[str]) -> list[SampleKey]:
    """Each id with how often it has come before."""
    seen: Counter[str] = Counter()
    keys = []
    for name in ids:
        keys.append((name, seen[name]))
        seen[name] += 1
    return keys


def read_completions(path: Path, ids: Sequence[str], split_ids: Collection[str], split_name: str) -> list[Recorded]:
    """What is recorded of each id, in order; for an id that comes again, its next sample. Other lines are left out.

    `split_ids` are the ids of all questions of the split, and `split_name` is what an error calls it.

    Raises:
        UserError: for a line that is no completion, an id that is not in the split or comes twice with the same
            sample, or a wanted message that is missing.
    """
    wanted = dict.fromkeys(sample_keys(ids))
    recorded: dict[SampleKey, Recorded] = {}
    for number, line in _numbered_lines(path):
        if not line.strip():
            continue
        key, answer = _parse(line, f"line {number} of {path}")
        if key[0] not in split_ids:
            raise UserError(f"line {number} of {path} answers {key[0]!r}, which is no question of {split_name}")
        if key in recorded:
            raise UserError(f"line {number} of {path} answers {key[0]!r} a second time: keep one of them")
        if key in wanted:
            recorded[key] = answer
    missing = [key for key in wanted if key not in recorded]
    if missing:
        raise UserError(
            f"{path} answers {len(wanted) - len(missing)} of {len(wanted)} questions, {len(missing)} missing, "
            f"the first of them {missing[0][0]!r}: complete it, or take fewer with --task, --limit or --samples"
        )
    return [recorded[key] for key in wanted]


def full_messages(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The texts of a file as full assistant messages, and a sentence for each thing that was done to all of them.

    Other tools keep what a model generated behind the opening words, and the token that ends its turn. Such a token is
    taken off where most texts end with one. The opening words are put before texts of which none begins with them, or
    with a think tag, and most close one.
    """
    messages, notes = [*texts], list[str]()
    cut = [END_OF_TURN.sub("", text) for text in texts]
    if 2 * sum(text != short for text, short in zip(texts, cut, strict=True)) > len(texts):
        notes.append("most completions end with a token of the chat template, which is taken off")
        messages = cut
    opened = sum(message.lstrip().startswith(STARTS) for message in messages)
    if not opened and 2 * sum(message.count("</think>") == 1 for message in messages) > len(messages):
        notes.append("no completion has the opening words, which are put before each")
        messages = [full_message(message) for message in messages]
    elif 2 * opened < len(messages):
        start = PREAMBLE.strip()
        notes.append(f"only {opened} of {len(messages)} completions begin with the opening words ({start}) or <think>")
    return messages, notes


def oddities(texts: Sequence[str], *, opened: bool = True) -> list[str]:
    """Sentences that say why most of some answers may not be what their model has said; none where they may be.

    The texts are what was generated, behind the opening words where these were given (`opened`).
    """
    n = len(texts)

    def most(flags: Iterable[bool]) -> int:
        """How many, where that is more than half."""
        return count if 2 * (count := sum(flags)) > n else 0

    sentences = []
    if count := most(not text.strip() for text in texts):
        sentences.append(
            f"{count} of {n} answers are empty: see what the model is asked and what it says, and whether "
            "--max-new-tokens leaves room for hidden reasoning."
        )
    if opened and (count := most(text.lstrip().startswith(STARTS) for text in texts)):
        sentences.append(
            f"{count} of {n} answers begin with the opening words ({PREAMBLE.strip()} <think>) again, and so have them "
            "twice: ask the model with a chat template that gives them."
        )
    if opened and (count := most("<answer>" in text and "</think>" not in text for text in texts)):
        sentences.append(
            f"{count} of {n} answers have no </think> before <answer>: either the reasoning is left out, or the chat "
            "template that the model is asked with does not give the opening words."
        )
    return sentences


def generated(message: str) -> str:
    """What a model generated of a full assistant message, with or without all of the opening words."""
    return message.lstrip().removeprefix(PREAMBLE.strip()).lstrip().removeprefix("<think>")


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers, from 1 on; read as they are wanted."""
    try:
        # Not splitlines: a message may hold U+2028. Editors of Windows begin a file with a mark, which is left out.
        with TextIOWrapper(open_file(path), encoding="utf-8-sig") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), ""), start=1):
                if len(line) > LONGEST_LINE:
                    raise UserError(f"line {number} of {path} has more than {LONGEST_LINE} characters: cut it")
                yield number, line
    except OSError as error:
        raise UserError(f"can't read {path} ({error.strerror}): name a .jsonl file of completions") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: name a .jsonl file of completions") from error


def _parse(line: str, line_name: str) -> tuple[SampleKey, Recorded]:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:  # a ValueError also for an integer of too many digits
        raise UserError(f"{line_name} is not JSON: write one object with 'id' and 'completion' a line") from error
    if not isinstance(value, dict):
        raise UserError(f"{line_name} is not an object with 'id' and 'completion'")
    for key in ("id", "completion"):
        if not isinstance(value.get(key), str):
            raise UserError(f"{line_name} has no {key!r} that is a text")
    sample = value.get("sample", 0)
    if not isinstance(sample, int) or sample < 0:
        raise UserError(f"{line_name} has a 'sample' that is no number from 0 on")
    turns = value.get("turns", [])
    if not isinstance(turns, list):
        raise UserError(f"{line_name} has 'turns' that are no list")
    if not all(isinstance(turn, dict) and isinstance(turn.get("completion"), str) for turn in turns):
        raise UserError(f"{line_name} has a turn without a 'completion' that is a text")
    messages = [*(turn["completion"] for turn in turns), value["completion"]]
    return (value["id"], sample), Recorded(messages, [turn.get("image") for turn in turns])
