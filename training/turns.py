"""What can be trained of tasks with several turns, by now."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from datagen.common.errors import UserError
from datagen.registry import find_task


def turns_of(tasks: Sequence[str]) -> int:
    """The messages that an episode of these tasks has at most: 1 for tasks of a single turn.

    Raises:
        UserError: where some have one turn and others several.
    """
    found = {name: find_task(name) for name in tasks}
    several = [name for name, task in found.items() if task.interaction]
    if several and len(several) < len(found):
        one = next(name for name in tasks if name not in several)
        raise UserError(f"{several[0]} has several turns and {one} has one: train one of them alone")
    return max(task.turns for task in found.values())


def goes_on_rule(tasks: Sequence[str]) -> Callable[[str], bool]:
    """Which full messages of these tasks of several turns something comes back to.

    Raises:
        UserError: where they differ in that: TRL asks about a message before it knows of which task it is.
    """
    interactions = {name: find_task(name).interaction for name in tasks}
    rules = {interaction.goes_on: name for name, interaction in interactions.items() if interaction}
    if len(rules) != 1:
        raise UserError(f"{' and '.join(rules.values())} answer different messages: train one of them alone")
    return next(iter(rules))


def check_turns(tasks: Sequence[str], *, use_vllm: bool, processes: int) -> None:
    """Raise a `UserError` where tasks of several turns can't be trained so yet."""
    if turns_of(tasks) == 1:
        return
    what = f"{', '.join(tasks)}: tasks of several turns"
    if use_vllm:
        raise UserError(f"{what} are sampled by transformers for now (TRL pull request #6719): use --vllm off")
    if processes > 1:
        raise UserError(f"{what} are trained by one process for now (TRL pull request #6673): use --hardware 1gpu")
