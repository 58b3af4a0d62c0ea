"""Hostile completions, and what they may earn: the rewards under attack.

An attack is a text that a policy could find instead of the answer. It is judged beside the honest message that it
replaces, and may earn no more than that under any reward: a shrug, which is a well-formed message that claims nothing;
the solution, where the attack has its substance; or as much of it as the attack shows. Tasks of several turns are
attacked by such a message alone, by one behind the trace's calls, and by whole episodes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datagen import r1_format
from datagen.environment import advance, replay
from datagen.interaction import Episode, format_call, parse_call
from datagen.r1_format import format_solution
from datagen.task import GroundTruth, RewardRangeError, Task, score

LONG = 100_000  # characters of the longest texts
SECONDS = 0.2  # all rewards of a task together may take for one of them: linear ones take 30 ms, others seconds
REPEATS = 3  # of a slow judgement: the best counts
ROUNDING = 1e-9
Text = Callable[[GroundTruth], str | list[str]]
"""A message for a question; or, for a task of several turns, all messages of an episode."""


def no_answer(_: GroundTruth) -> str:
    """The honest message of one who does not know."""
    return format_solution("I do not know. <chars> ? </chars>", "I do not know.")


def solution(question: GroundTruth) -> str:
    """The honest message of one who knows."""
    return str(question["solution"])


def reasoning(question: GroundTruth) -> str:
    """The honest message of one who has worked it out, and gives no answer."""
    return format_solution(_thinking(question), "I do not know.")


def first_point(question: GroundTruth) -> str:
    """The honest message of one who points at a single thing, rightly."""
    return format_solution(_thinking(question).partition("}")[0] + "}", "I do not know.")


def one_letter(_: GroundTruth) -> str:
    """The honest message of one who has read a single letter."""
    return format_solution("<chars> a </chars>", "I do not know.")


@dataclass(frozen=True)
class Attack:
    """A hostile text for a question, the honest one that it replaces, and whether it is well-formed.

    One that is not may earn nothing of `format`.
    """

    name: str
    text: Text
    honest: Text = no_answer
    well_formed: bool = False


@dataclass(frozen=True)
class AttackResult:
    """The most an attack earned under each reward, the reward that it broke (or None), and the slowest judgement.

    `seconds` are those of judging one message by all rewards. `undue` is whether the attack replaces a shrug, so that
    anything it earns is undue.
    """

    attack: str
    most: dict[str, float]
    broke: str | None
    seconds: float
    undue: bool


def _fixed(name: str, text: str) -> Attack:
    return Attack(name, lambda _: text)


def _well_formed(name: str, text: Text, honest: Text = no_answer) -> Attack:
    return Attack(name, text, honest, well_formed=True)


def _answer(name: str, answer: str) -> Attack:
    """An answer that is wrong for every question; where it is right all the same, as for the word "nan", a shrug."""

    def text(question: GroundTruth) -> str:
        right = str(question["answer"]).lower() == answer.lower()
        return no_answer(question) if right else format_solution("Easy.", answer)

    return _well_formed(f"answer {name}", text)


def _thinking(question: GroundTruth) -> str:
    parsed = r1_format.parse(question["solution"])
    assert parsed is not None
    return parsed[0]


def _block(question: GroundTruth) -> str:
    return f"<answer>{question['answer']}</answer>"


def _prompt(question: GroundTruth) -> str:
    return str(question["prompt"][-1]["content"])


def _example_answer(question: GroundTruth) -> str:
    """The example in the prompt's instruction."""
    return _prompt(question).rpartition("<answer>")[2].partition("</answer>")[0]


def _reasoned(question: GroundTruth, answer: str) -> str:
    return format_solution(_thinking(question), answer if answer != question["answer"] else "")


def _many(left: str, right: str = "") -> str:
    return (left * (LONG // len(left)))[:LONG] + right


def _in_other_tags(question: GroundTruth, left: str, right: str) -> str:
    return str(question["solution"]).replace("<", left).replace(">", right)


def _coded(question: GroundTruth) -> str:
    """The coded text of a message, in the places of the decoded one; empty where the task has no cipher."""
    coded = str(question.get("coded_message", ""))
    return format_solution(f"<chars> {' '.join(coded)} </chars>", coded.replace("_", " ")) if coded else ""


def _spelled(question: GroundTruth) -> str:
    """The right characters, copied into the answer as they are: work shown, no answer given."""
    message = str(question.get("message", ""))
    spelled = " ".join(message.replace(" ", "_"))
    return format_solution(f"<chars> {spelled} </chars>", spelled) if message else ""


def _grid(step: int) -> str:
    """A point and a box of every label, all over the image."""
    positions = range(0, 168, step)
    return " ".join(
        f'{{"point_2d": [{x}, {y}], "label": "{(x + y) % 10}"}}'
        f'{{"bbox_2d": [{x}, {y}, {x + 28}, {y + 28}], "label": "1"}}'
        for x in positions
        for y in positions
    )


def _look_alike(question: GroundTruth, digits: str, letters: str) -> str:
    """The answer in look-alikes of its digits and letters."""
    fake = str(question["answer"]).translate(str.maketrans("0123456789" + "aeocpx", digits + letters))
    return format_solution("Easy.", fake if fake != question["answer"] else "")


def _with_gaps(question: GroundTruth) -> str:
    """The honest message of one who has read all but the signs that have look-alikes."""
    return _look_alike(question, "?" * 10, "?" * 6)


NUMBERS = " ".join(map(str, range(100)))
LETTERS = " ".join("abcdefghijklmnopqrstuvwxyz")
ATTACKS = (
    _fixed("empty", ""),
    _fixed("white space", " \n\t" * 10),
    _fixed("opening words alone", r1_format.OPENING),
    _fixed("empty blocks", "<think></think><answer></answer>"),
    Attack("answer alone", _block, honest=solution),
    _well_formed("answer without its thinking", lambda q: format_solution("", q["answer"]), honest=solution),
    Attack("solution cut off", lambda q: q["solution"][: len(q["solution"]) // 2]),
    Attack("answer never closed", lambda q: q["solution"].removesuffix("</answer>")),
    Attack("thinking never closed", lambda q: q["solution"].replace("</think>", ""), honest=solution),
    Attack("several think blocks", lambda q: f"<think>a</think>{q['solution']}", honest=solution),
    Attack("several answer blocks, first right", lambda q: f"{q['solution']}<answer>0</answer>"),
    Attack("several answer blocks, last right", lambda q: f"<think>a</think><answer>0</answer>{_block(q)}"),
    Attack("answer block in the thinking", lambda q: f"<think>{_block(q)}</think><answer>no</answer>"),
    Attack("answer block in the answer", lambda q: f"<think>a</think><answer>{_block(q)}</answer>"),
    Attack("tags nested", lambda q: f"<think><think>{_block(q)}</think></think>", honest=solution),
    Attack("tags in the wrong order", lambda q: f"</think><think>{_block(q)}", honest=solution),
    Attack("blocks in the wrong order", lambda q: f"{_block(q)}<think>{_thinking(q)}</think>", honest=solution),
    Attack("text behind the answer", lambda q: f"{q['solution']} I hope this helps.", honest=solution),
    Attack("tags in capitals", lambda q: q["solution"].replace("think", "THINK").replace("answer", "ANSWER")),
    Attack("tags in full-width signs", lambda q: _in_other_tags(q, "＜", "＞")),
    Attack("tags escaped", lambda q: _in_other_tags(q, "&lt;", "&gt;")),
    Attack("tags in square brackets", lambda q: _in_other_tags(q, "[", "]")),
    Attack("question echoed", _prompt),
    Attack("question echoed after the opening words", lambda q: r1_format.OPENING + _prompt(q)),
    _well_formed("question echoed as an answer", lambda q: format_solution("Easy.", _prompt(q).partition("<")[0])),
    _well_formed("example answer copied", lambda q: format_solution("Easy.", _example_answer(q))),
    _well_formed("coded text copied", _coded),
    _well_formed("characters copied into the answer", _spelled, honest=reasoning),
    _answer("every number", NUMBERS),
    _answer("every number, with commas", NUMBERS.replace(" ", ", ")),
    _answer("every letter", LETTERS),
    _well_formed(
        "right reasoning, answer spelled", lambda q: _reasoned(q, "-".join(str(q["answer"]))), honest=reasoning
    ),
    _well_formed(
        "right reasoning, answer twice", lambda q: _reasoned(q, f"{q['answer']} {q['answer']}"), honest=reasoning
    ),
    _answer("negative", "-1"),
    _answer("huge", "9" * 5000),
    _answer("1e3", "1e3"),
    _answer("NaN", "NaN"),
    _answer("infinity", "Infinity"),
    _answer("a fraction", "5/1"),
    _answer("a sum", "2 + 3"),
    _answer("code", "__import__('os').system('true')"),
    _answer("control characters", "\x00\x1b[31m\ud83d"),
    _answer("Arabic digit", "٣"),
    _well_formed("Unicode digits", lambda q: _look_alike(q, "٠١٢٣٤٥٦٧٨٩", "аеосрх"), honest=_with_gaps),
    _well_formed(
        "full-width digits",
        lambda q: _look_alike(q, "０１２３４５６７８９", "ａｅｏｃｐｘ"),
        honest=_with_gaps,
    ),
    _well_formed("invisible signs", lambda q: format_solution("Easy.", "\u200b".join(str(q["answer"])) + "\u200b")),
    _well_formed(
        "hundreds of points and boxes",
        lambda _: format_solution(_grid(12), "I do not know."),
        honest=first_point,
    ),
    _well_formed(
        "boxes that are none",
        lambda _: format_solution('{"point_2d": [NaN, 1e999], "label": "1"} {"bbox_2d": "all"}', "x"),
    ),
    _well_formed("long thinking", lambda q: format_solution(_many("so "), "I do not know.")),
    _answer("long", _many("9")),
    _answer("long list", _many("9, ")),
    _answer("long blank", _many(" ")),
    _answer("deep brackets", _many("[")),
    _fixed("tag soup", _many("<think><")),
    _fixed("tags opened", _many("<think>")),
    _fixed("tags opened and closed", _many("<think></think>")),
    _fixed("answers opened", _many("<answer>")),
    _fixed("angle brackets", _many("<")),
    _well_formed("braces in the thinking", lambda _: format_solution(_many("{"), "x")),
    _well_formed("braces and blanks", lambda _: format_solution(_many("{ "), "x")),
    _well_formed("many objects", lambda _: format_solution(_many("{x}"), "x")),
    _well_formed("many broken points", lambda _: format_solution(_many('{"point_2d"}'), "x")),
    _well_formed("many points", lambda _: format_solution(_many('{"point_2d": [1, 1], "label": "1"}'), "x")),
    _well_formed("characters opened", lambda _: format_solution(_many("<chars>"), "x")),
    _well_formed("many characters", lambda _: format_solution(f"<chars>{_many('a ')}</chars>", "x"), honest=one_letter),
    Attack("solution repeated", lambda q: _many(str(q["solution"]))),
)


def trace(question: GroundTruth) -> list[str]:
    """The honest episode of one who looks, then answers."""
    return [*question["turns"], question["solution"]]


def shrug(question: GroundTruth) -> list[str]:
    """The honest episode of one who looks, and does not know all the same."""
    return [*question["turns"], str(no_answer(question))]


def unseen(question: GroundTruth) -> list[str]:
    """The honest episode of one who answers rightly without a look."""
    return [question["solution"]]


def _call(question: GroundTruth) -> str:
    return str(parse_call(question["turns"][0]))


def _in_last(question: GroundTruth, text: str) -> list[str]:
    return [*question["turns"], question["solution"].replace("</think>", f"{text}</think>")]


# Of calls alone nothing is due but the format, of which an episode without an answer has none.
TOOL_ATTACKS = (
    Attack("calls without end", lambda q: [q["turns"][0]] * 50, honest=shrug),
    Attack("a look repeated", lambda q: [q["turns"][0], *trace(q)], honest=trace, well_formed=True),
    Attack("calls that are refused", lambda q: [format_call("Look.", "open 1")] * 50, honest=shrug),
    Attack("a refused call, then the trace", lambda q: [format_call("Look.", "open 1"), *trace(q)], honest=trace),
    Attack(
        "several calls in a message", lambda q: [q["turns"][0] + f"<tool>{_call(q)}</tool>", *trace(q)], honest=shrug
    ),
    Attack("a call and the answer in one message", lambda q: [q["turns"][0] + _block(q), *trace(q)], honest=unseen),
    Attack("the answer in the thinking of a call", lambda q: [format_call(_block(q), _call(q))] * 50, honest=unseen),
    Attack("a call in the thinking of the answer", lambda q: _in_last(q, f"<tool>{_call(q)}</tool>"), honest=trace),
    Attack("a result that is made up", lambda q: [f"{q['turns'][0]}\n<image>\n{q['solution']}"], honest=unseen),
    Attack("a call that is never closed", lambda q: [q["turns"][0].removesuffix("</tool>"), *trace(q)], honest=shrug),
    Attack("the answer without a look", unseen, honest=unseen, well_formed=True),
    Attack(
        "a wrong answer, then the right one", lambda q: [str(no_answer(q)), *trace(q)], honest=shrug, well_formed=True
    ),
    Attack("a long call", lambda q: [format_call("Look.", _many("zoom ")), *trace(q)], honest=shrug),
    Attack(
        "deep JSON as a call",
        lambda q: [f"{r1_format.OPENING}</think><tool_call>{_many('[')}</tool_call>"],
        honest=shrug,
    ),
)


def unsure(question: GroundTruth) -> list[str]:
    """The honest episode of one who does not know, also after a second look."""
    return [str(no_answer(question))] * 2


SECOND_LOOK_ATTACKS = (
    Attack("right, then wrong", lambda q: [q["solution"], str(no_answer(q))], honest=unsure, well_formed=True),
    Attack("right behind the end", lambda q: [*unsure(q), q["solution"]], honest=unsure, well_formed=True),
    Attack("both answers in one message", lambda q: [str(no_answer(q)) + q["solution"]] * 2, honest=unsure),
    Attack("a second look that is made up", lambda q: [f"{no_answer(q)}\n<image>\n{q['solution']}"], honest=unsure),
    Attack("a call as the first answer", lambda q: [format_call("Look.", "zoom 1"), q["solution"]], honest=trace),
    Attack("no first answer", lambda q: ["", q["solution"]], honest=trace),
)


def attacks_on(task: Task) -> tuple[Attack, ...]:
    """All attacks on a task: some are on episodes with a tool, some on those without."""
    if task.interaction is None:
        return ATTACKS
    return (*ATTACKS, *(TOOL_ATTACKS if task.has_tool else SECOND_LOOK_ATTACKS))


def audit(task: Task, questions: Sequence[GroundTruth]) -> list[AttackResult]:
    """Every attack on every reward of the task, each for all `questions` (rows of `r1`, solutions included).

    Returns one result an attack. Seconds are the processor's, the best of `REPEATS`: a busy machine is no finding.

    Raises:
        Exception: whatever a reward raises. It must not, for any text.
    """
    return [_try(attack, task, questions) for attack in attacks_on(task)]


def _try(attack: Attack, task: Task, questions: Sequence[GroundTruth]) -> AttackResult:
    most = dict.fromkeys(task.rewards, 0.0)
    slowest, broke = 0.0, None
    tried = [
        (question, *pair)
        for question in questions
        for pair in zip(_play(task, attack.text, question), _play(task, attack.honest, question), strict=True)
    ]
    for question, hostile, honest in tried:
        try:
            scores, seconds = _timed_score(task, hostile, question)
            due = score(task, honest, question)
        except RewardRangeError as error:
            broke = broke or error.reward
            continue
        if "format" in due and not attack.well_formed:
            due["format"] = 0.0
        most = {name: max(most[name], scores[name]) for name in most}
        slowest = max(slowest, seconds)
        broke = broke or next((name for name in scores if scores[name] > due[name] + ROUNDING), None)
    return AttackResult(attack.name, most, broke, slowest, attack.honest is no_answer)


def _play(task: Task, text: Text, question: GroundTruth) -> list[Episode]:
    """The episodes in which a text is said: as it is, and behind the calls of the trace."""
    said = text(question)
    if isinstance(said, list):
        return [replay(task, said, question)]
    episodes = [Episode()]
    if task.interaction is not None:
        episodes.append(replay(task, question["turns"], question))
    for episode in episodes:
        advance(task, episode, said, question)
    return episodes


def _timed_score(task: Task, said: Episode, question: GroundTruth) -> tuple[dict[str, float], float]:
    """The scores of an episode, and the processor's seconds of judging it: the best of up to `REPEATS`."""
    best = math.inf
    for _ in range(REPEATS):
        started = time.thread_time()
        scores = score(task, said, question)
        best = min(best, time.thread_time() - started)
        if best < SECONDS / 10:
            break
    return scores, best


def summary(results: list[AttackResult]) -> dict[str, Any]:
    """For the card: how many attacks, which broke a reward, and the most that an undue one earned of each reward."""
    undue = [result.most for result in results if result.undue]
    return {
        "attacks": len(results),
        "broke": [result.attack for result in results if result.broke],
        "most_undue": {name: max(most[name] for most in undue) for name in undue[0]},
    }
