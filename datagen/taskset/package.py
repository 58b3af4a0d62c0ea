"""Finding the taskset of an installed package, and refusing what can't be asked without a sandbox."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType
from typing import Any

from datagen.common.errors import UserError, require_extra
from datagen.common.files import open_file
from datagen.registry.code import Code, explain

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}", re.ASCII)
MINE = "r1vlm asks for messages alone"


@dataclass(frozen=True)
class Package:
    """An installed package with a taskset: its `vf.Env`, the seat in it that is played, and the code that was loaded.

    `turns` are the messages that the seat may say at most; None where the environment does not limit them. `plays` says
    that the environment leads the conversation itself; else a question is answered by one message.
    """

    env: Any
    seat: str
    code: Code
    turns: int | None
    plays: bool


def load_package(name: str) -> Package:
    """The package of that name, imported.

    Raises:
        UserError: where it is not installed, has no taskset of verifiers 0.4, or needs more than messages.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--env {name!r} is no name of an installed package: install it, and name it as it is imported")
    require_extra("verifiers", "verifiers")
    import verifiers.v1 as vf

    module = _import(name)
    code = _code(name, module)
    try:
        env = vf.load_environment(vf.resolve_env_config({"taskset": {"id": name}}))
    except Exception as error:
        raise UserError(f"{code} has no taskset that verifiers can load: {explain(error, code.path)}") from error
    seats = env.config.agent_harnesses()
    if len(seats) != 1:
        raise UserError(f"{code} has {len(seats)} agents ({', '.join(seats)}), and one model is asked here")
    (seat,) = seats
    _check_env(env, code)
    return Package(env, seat, code, getattr(env.config, seat).max_turns, type(env) is not vf.SingleAgentEnv)


def _import(name: str) -> ModuleType:
    """The module of a package, by the rule of verifiers: its own tasksets first.

    Raises:
        UserError: where there is none, or it is an environment of an older verifiers.
    """
    own = name.replace("-", "_").lower()
    inside = f"verifiers.v1.tasksets.{own}"
    module = inside if importlib.util.find_spec(inside) else own
    if importlib.util.find_spec(module) is None:
        raise UserError(f"there is no installed package {name!r}: install it, nothing is fetched by --env")
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"the package {name!r} can't be loaded: {explain(error, name)}") from error
    if getattr(found, "__all__", None) is None and hasattr(found, "load_environment"):
        raise UserError(
            f"{name!r} is an environment of verifiers before 0.4 (it has load_environment): "
            "install a version of it that exports a Taskset"
        )
    return found


def _code(name: str, module: ModuleType) -> Code:
    path = Path(str(module.__file__))
    distributions = packages_distributions().get(module.__name__.partition(".")[0], [])
    with open_file(path) as file:
        source = file.read()
    return Code(str(path), source, name, version(distributions[0]) if distributions else "without a version")


def _check_env(env: Any, code: Code) -> None:
    """Raise a `UserError` where an environment does more than lead a conversation."""
    import verifiers.v1 as vf

    for hook in ("setup", "finalize", "start", "stop"):
        if getattr(type(env), hook) is not getattr(vf.Env, hook):
            raise UserError(f"{code} has an environment with its own {hook}(), which is not run here: {MINE}")
    if env.taskset.toolsets(env.taskset.config) or type(env.taskset).task_type().toolsets(env.taskset.config.task):
        raise UserError(f"{code} has tools on servers, which take verifiers' own vf-eval: {MINE}")


def check_task(task: Any, code: Code) -> None:
    """Check that a task can be asked and judged by messages alone.

    Raises:
        UserError: where it needs a sandbox, tools or a judge that is a model.
    """
    import verifiers.v1 as vf
    from verifiers.v1.utils.decorators import discover_decorated

    hooks = [*task.hooks("reward"), *task.hooks("metric")]
    needs_runtime = [
        function.__name__
        for function in hooks
        if (parameter := inspect.signature(function).parameters.get("runtime"))
        and parameter.default is inspect.Parameter.empty
    ]
    own = [name for name in ("setup", "finalize") if getattr(type(task), name) is not getattr(vf.Task, name)]
    reasons = {
        "a container": type(task).NEEDS_CONTAINER or task.data.image is not None,
        f"a runtime ({', '.join(needs_runtime + own)})": bool(needs_runtime or own),
        "skills": bool(task.data.skills),
    }
    for need, is_needed in reasons.items():
        if is_needed:
            raise UserError(f"{code} needs a sandbox: its tasks want {need}; use verifiers' own vf-eval, as {MINE}")
    if task.plugged_judges():
        raise UserError(f"{code} is judged by another model, which is not asked here: use verifiers' own vf-eval")
    if task.hooks("stop") or discover_decorated(task, "intercept"):
        raise UserError(f"{code} stops or rewrites messages on their way, which {MINE} and can't do: use vf-eval")
    if not task.hooks("reward"):
        raise UserError(f"{code} has no rewards: there is nothing to score")
