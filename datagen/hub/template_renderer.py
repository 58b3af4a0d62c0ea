"""Renders a chat template, under limits:  python template_renderer.py SECONDS BYTES CHARACTERS < JSON.

A template is a program in a checkpoint's files. Jinja's sandbox keeps it from the machine, not from an endless loop or
from any amount of memory; so does this process, and ends with what is wrong on its standard error and status 3. It
loads Jinja alone: transformers' own environment (`chat_template_utils.py`) has the same filters, globals and tags.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """The tag around what a model has said, which changes nothing that is rendered."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


def render(template: str, variables: dict[str, Any], characters: int) -> None:
    """Render a template to nowhere.

    Raises:
        TemplateError: where it is wrong, refuses the conversation, or writes more than so many characters.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
    for block in environment.from_string(template).generate(**variables):
        characters -= len(block)
        if characters < 0:
            raise TemplateError("it writes without end")


def main() -> None:
    """Render what is on standard input: a template, and the variables of each conversation."""
    seconds, size, characters = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        template, *conversations = json.load(sys.stdin)
        for variables in conversations:
            render(template, variables, characters)
    except MemoryError:
        sys.exit(4)
    except Exception as error:  # a template may raise anything
        print(" ".join(str(error).split()) or type(error).__name__, file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
