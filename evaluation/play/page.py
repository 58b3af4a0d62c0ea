"""The page: one Gradio app on this machine alone, which asks the network for nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from markupsafe import escape

from datagen.common.errors import UserError
from datagen.common.formatting import visible
from evaluation.play.player import Played, Player
from evaluation.play.questions import Question, QuestionSource, own_image
from evaluation.play.render import read_file, render

HOST = "127.0.0.1"
UPLOAD = "16mb"
HEADER = "<h1>Play with a checkpoint</h1><p>{}. What is drawn is of the test split.</p>"
FONTS = ("system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "DejaVu Sans", "sans-serif")  # no web font
MONO = ("ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")


@dataclass(frozen=True)
class Table:
    """Where it is played: the questions, and one or two players with their names."""

    source: QuestionSource
    players: Sequence[tuple[str, Player]]

    def panels(self, played: Sequence[Played]) -> list[str]:
        """The panels of all players as HTML."""
        return [
            render(player, one, self.source.spec, name)
            for (name, player), one in zip(self.players, played, strict=True)
        ]

    def draw(self, task: str, seed: float | None) -> tuple[Any, ...]:
        """A new question: itself, its text, and the panels before anything is said."""
        return self._show(self.source.question(task, max(0, int(seed or 0))))

    def upload(self, content: bytes | None, question: Question) -> tuple[Any, ...]:
        """The question about another image.

        Raises:
            UserError: where it is no image that can be decoded.
        """
        if content is None:
            return self._show(question)
        return self._show(Question([own_image(content)], question.text, question.example_answer))

    def ask(self, question: Question, text: str) -> Iterator[list[str]]:
        """The panels as the players answer, a token of each at a time."""
        asked = question.asked(text)
        played = [Played(asked)] * len(self.players)
        for step in zip_longest(*(player.play(asked) for _, player in self.players)):
            played = [new or old for new, old in zip(step, played, strict=True)]
            yield self.panels(played)

    def _show(self, question: Question) -> tuple[Any, ...]:
        return question, question.text, *self.panels([Played(question)] * len(self.players))


def serve(table: Table, port: int | None) -> None:
    """Show the page until the command is interrupted.

    Raises:
        UserError: where the port is taken.
    """
    page = open_page(table, port)
    print(f"page: {page.local_url} (Ctrl-C ends it)", flush=True)
    page.block_thread()


def open_page(table: Table, port: int | None) -> Any:
    """The page, served on 127.0.0.1 by a thread; None for a port that is free.

    Raises:
        UserError: where the port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    page, look = build(table)
    try:
        page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            max_file_size=UPLOAD,
            footer_links=[],
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            **look,
        )
    except OSError as error:  # Gradio's word for a port that is taken
        taken = f"port {port}" if port else "every port from 7860 on"
        raise UserError(f"{taken} is taken: name another one with --port") from error
    return page


def build(table: Table) -> tuple[Any, dict[str, Any]]:
    """The Gradio app, and how `launch` makes it look."""
    import gradio as gr

    tasks = [task.name for task in table.source.spec.tasks]
    script = read_file("play.js")
    with gr.Blocks(title="r1vlm play", analytics_enabled=False) as page:
        gr.HTML(HEADER.format(escape(visible(f"{table.source.spec.name}: {table.source.spec.summary}"))))
        question = gr.State()
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=280):
                task = gr.Dropdown(tasks, value=tasks[0], label="Task", elem_id="task")
                with gr.Row():
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90, elem_id="seed")
                    another = gr.Button("Another", elem_id="another", min_width=100)
                image = gr.UploadButton(
                    "Use an image of your own", file_types=["image"], type="binary", size="sm", elem_id="upload"
                )
                text = gr.Textbox(label="Question", lines=4, elem_id="question")
                ask = gr.Button("Ask", variant="primary", elem_id="ask")
            with gr.Column(scale=5, min_width=320), gr.Row(equal_height=False):
                panels = [
                    gr.HTML(js_on_load=script, elem_classes="panel", elem_id=name, min_height=300)
                    for name, _ in table.players
                ]
        shown = [question, text, *panels]
        said = _said(gr)
        gr.on([page.load, task.change, seed.change], said(table.draw), [task, seed], shown)
        another.click(lambda number: int(number or 0) + 1, seed, seed)
        image.upload(said(table.upload), [image, question], shown)
        ask.click(said(table.ask), [question, text], panels)
    theme = gr.themes.Base(primary_hue="orange", radius_size="lg", font=FONTS, font_mono=MONO).set(
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_400"
    )
    return page, {"theme": theme, "css": read_file("play.css")}


def _said(gr: Any) -> Any:
    """Wraps a function of the page: a `UserError` in it is shown as a sentence."""
    from functools import wraps
    from inspect import isgeneratorfunction

    def wrap(function: Any) -> Any:
        @wraps(function)
        def call(*words: Any) -> Any:
            try:
                return function(*words)
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from error

        @wraps(function)
        def generate(*words: Any) -> Any:
            try:
                yield from function(*words)
            except UserError as error:
                raise gr.Error(str(error), print_exception=False) from error

        return generate if isgeneratorfunction(function) else call

    return wrap
