"""Episodes of several turns as they are trained on: in TRL's trainer, with its loop of tools."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from benchmarks.steps import make_run
from datagen.common.errors import UserError
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reader import open_dataset
from datagen.environment import replay, trace_of
from datagen.r1_format import full_message, with_opening, with_tool_turns
from datagen.registry import find_task
from tests.conftest import MakeOnce
from tests.processes import invoke
from tests.training.architectures import shrunk
from training.models import add_tokens, load_model
from training.recipes import load_recipe
from training.rollout.multi_turn import conversation, images_in, longest_trace
from training.trainers import grpo, sft
from training.turns import check_turns, goes_on_rule, turns_of

pytestmark = pytest.mark.slow
GROUP = 4
SETTINGS = {
    "per_device_train_batch_size": 2 * GROUP,
    "num_generations": GROUP,
    "max_completion_length": 200,
    "learning_rate": 1e-3,
    "max_steps": 1,
    "bf16": False,
    "gradient_checkpointing": False,
    "loss_type": "dr_grpo",
    "beta": 0.0,
    "freeze_vision": True,  # so that features of images are looked up
}


@pytest.fixture(scope="session")
def several_turns(make_once: MakeOnce) -> Path:
    """Datasets with tasks of several turns, of 32 train, 4 validation and 4 test images each."""

    def fill(folder: Path) -> None:
        for name in SCRIPTS:
            build(DatasetConfig(dataset=name, size=40, seed=3), folder / name, executor=map)

    return make_once("several-turns", fill)


@pytest.fixture
def zoom_folder(several_turns: Path) -> Path:
    """That of zoom."""
    return several_turns / "zoom"


def look(prompt: str, number: int) -> str:
    """What a model says behind a prompt: it looks at what is asked, then answers; every fourth slips at first."""
    question, *said = prompt.split("<|im_start|>assistant")
    cells = re.findall(r"\d", re.search(r"cells? ([\d and]+)\?", question)[1])  # type: ignore[index]
    turn = len(said) - 1
    if number % GROUP == GROUP - 1 and not turn:
        return "Look.</think>\n<tool>zoom 12</tool>"
    if turn < len(cells):
        return f"Look at {cells[turn]}.</think>\n<tool>zoom {cells[turn]}</tool>"
    return f"I see {number}.</think>\n<answer>{number}</answer>"


def answer_twice(prompt: str, number: int) -> str:
    """What a model says behind a prompt: an answer, then another one; every fourth slips at first."""
    turn = prompt.count("<|im_start|>assistant") - 1
    return "no" if number % GROUP == GROUP - 1 and not turn else f"I see.</think>\n<answer>{number + turn}</answer>"


SCRIPTS = {"zoom": look, "check": answer_twice}


class Scripted(grpo.R1GRPOTrainer):
    """The trainer, whose model says what the script has; the batch of its loss is kept."""

    script: Any

    def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        tokenizer = self.processing_class.tokenizer
        texts = [self.script(text, i) for i, text in enumerate(tokenizer.batch_decode(prompt_ids))]
        return [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts], None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        self.seen = inputs
        return super()._compute_loss(model, inputs)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_loss_gets_what_was_sampled_and_every_image_that_was_shown(
    name: str, several_turns: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    folder = several_turns / name
    run = make_run(random_checkpoint, folder, tmp_path / "run", SETTINGS, {})
    Path(run.out).mkdir()
    kept: list[Any] = []

    def train(trainer: Any, out: Path) -> Path:
        kept.append(trainer)
        trainer.train()
        return out

    trainer_class = type("Scripted", (Scripted,), {"script": staticmethod(SCRIPTS[name])})
    with patch.object(grpo, "R1GRPOTrainer", trainer_class), patch.object(grpo, "run_trainer", train):
        grpo.train(run)
    (trainer,) = kept
    assert trainer.image_features.known
    processor, batch = trainer.processing_class, trainer.seen
    rows = {row["id"]: row for row in open_dataset(folder).questions("train")}
    lines = [json.loads(line) for line in Path(run.out, "completions.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * GROUP
    assert sum(len(line["turns"]) for line in lines) >= len(lines)

    image = batch["completion_ids"] == processor.image_token_id
    trained = batch["completion_mask"].bool() & batch["tool_mask"].bool()
    assert image.any()
    assert not (image & trained).any()
    assert sum(batch["num_images"]) == len(batch["image_grid_thw"])
    played = [replay(find_task((row := rows[line["id"]])["task"]), line["turns"], row) for line in lines]
    shown = sum(seen.image is not None for episode in played for seen in episode.observations)
    assert sum(batch["num_images"]) == len(lines) + shown

    said = {(*line["turns"], line["completion"]): line for line in lines}
    ends = [processor.tokenizer.eos_token_id]
    logps, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model.eval(),
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
        batch["completion_ids"].shape[1],
        **{name: batch[name] for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")},
    )
    for number in range(len(lines)):
        mine = batch["completion_ids"][number][trained[number]].tolist()
        texts = [full_message(text) for text in processor.tokenizer.decode(mine).split("<|im_end|>")[:-1]]
        line = said[tuple(texts)]  # what is judged is what is trained on, and nothing else is
        row = rows[line["id"]]
        talk = conversation(row, replay(find_task(row["task"]), texts, row))
        plain = processor(
            text=[processor.apply_chat_template(talk, tokenize=False)], images=[images_in(talk)], return_tensors="pt"
        )
        # The history that is rendered anew is what was sampled, token for token, but for the line feed at its end.
        whole = [
            *batch["prompt_ids"][number][batch["prompt_mask"][number].bool()].tolist(),
            *batch["completion_ids"][number][batch["completion_mask"][number].bool()].tolist(),
        ]
        assert plain["input_ids"][0, : len(whole)].tolist() == whole
        assert whole[-1:] == ends
        with torch.no_grad():
            logits = trainer.model(**plain).logits[0].log_softmax(-1)
        start = int(batch["prompt_mask"][number].sum())
        expected = torch.stack([logits[at - 1, whole[at]] for at in range(start, len(whole))])
        ours = logps[number][batch["completion_mask"][number].bool()]
        torch.testing.assert_close(
            ours[trained[number][: len(ours)]], expected[trained[number][: len(ours)]], atol=1e-4, rtol=0
        )


def test_a_run_that_was_stopped_takes_the_same_steps(
    zoom_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words: list[Any] = ["zoom", "--data", zoom_folder, "--model", random_checkpoint, "--out", out, "--traces", "2"]
    words += ["--set", "save_steps=1", "--set", "max_completion_length=160", "--num-generations", "4", "--no-report"]
    words += ["--steps", "2", "--set", "per_device_train_batch_size=8"]
    assert (done := invoke("training.cli", *words)).returncode == 0, done.stderr

    def logged() -> Any:
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if name != "step_time"} for line in lines], (
            out / "completions.jsonl"
        ).read_text()

    whole = logged()
    shutil.rmtree(out / "checkpoint-2")
    (out / "final").unlink()
    assert (done := invoke("training.cli", *words, "--resume")).returncode == 0, done.stderr
    assert logged() == whole


@pytest.mark.parametrize("recipe", ["default", "qwen2-vl-2b", "qwen3-vl-2b", "smolvlm"])
def test_a_tools_turn_is_rendered_as_a_users(recipe: str, tmp_path: Path, zoom_folder: Path) -> None:
    _, processor = load_model(str(shrunk(load_recipe(recipe)["model"], tmp_path / "model")))
    row = open_dataset(zoom_folder).questions("train")[0]
    talk = conversation(row, trace_of(find_task(row["task"]), row))
    tools = [{**turn, "role": "tool"} if at > 1 and turn["role"] == "user" else turn for at, turn in enumerate(talk)]
    before = processor.apply_chat_template(talk, tokenize=False)
    template = with_tool_turns(processor.chat_template)
    assert with_tool_turns(template) == template
    assert with_opening(template) == template
    after = processor.apply_chat_template(tools, tokenize=False, chat_template=template, tools=[{"name": "say"}])
    assert after == before
    assert len(images_in(talk)) == 1 + len(row["turns"])


WITHOUT_IMAGES = """\
{%- set r = namespace(m=[]) %}{%- for t in messages %}{%- if loop.index0 > 1 and t.role != 'assistant' %}\
{%- set r.m = r.m + [{'role': t.role, 'content': [{'type': 'text', 'text': 'Seen.'}]}] %}{%- else %}\
{%- set r.m = r.m + [t] %}{%- endif %}{%- endfor %}{%- set messages = r.m %}"""
WITHOUT_REASONING = """\
{%- set r = namespace(m=[]) %}{%- for t in messages %}{%- if t.role == 'assistant' and not loop.last %}\
{%- set r.m = r.m + [{'role': t.role, 'content': t.content[0].text.split('</think>')[-1]}] %}{%- else %}\
{%- set r.m = r.m + [t] %}{%- endif %}{%- endfor %}{%- set messages = r.m %}"""


@pytest.mark.parametrize(
    ("preamble", "sentence"),
    [
        (WITHOUT_IMAGES, "the chat template shows 1 of the 3 images of an episode"),
        (WITHOUT_REASONING, "the chat template changes what was said in earlier turns"),
    ],
)
def test_a_template_that_leaves_something_out_of_an_episode_is_refused_before_the_first_step(
    preamble: str, sentence: str, zoom_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(random_checkpoint, tmp_path / "model"))
    template = model / "chat_template.jinja"
    template.write_text(preamble + template.read_text())
    words = ["--data", zoom_folder, "--task", "cells", "--model", model, "--out", tmp_path / "run"]
    words += ["--set", "per_device_train_batch_size=8", "--num-generations", "4", "--steps", "1", "--no-report"]
    done = invoke("training.cli", "zoom", *words)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"use_vllm": True}, "sampled by transformers for now"),
        ({"processes": 2}, "trained by one process for now"),
    ],
)
def test_what_is_not_proven_is_refused(settings: dict[str, Any], sentence: str) -> None:
    usual: dict[str, Any] = {"use_vllm": False, "processes": 1}
    check_turns(["cell"], **usual)
    check_turns(["sum"], **usual | settings)
    with pytest.raises(UserError, match=sentence):
        check_turns(["cell"], **usual | settings)


def test_tasks_of_one_and_of_several_turns_are_not_mixed() -> None:
    assert (turns_of(["list", "sum"]), turns_of(["cell", "cells"])) == (1, 4)
    with pytest.raises(UserError, match="cell has several turns and sum has one"):
        turns_of(["sum", "cell"])
    assert goes_on_rule(["cell", "cells"])("<think>Look.</think><tool>zoom 5</tool>")
    with pytest.raises(UserError, match="cell and sum_checked answer different messages"):
        goes_on_rule(["cell", "sum_checked"])


@pytest.mark.parametrize("name", SCRIPTS)
def test_held_out_episodes_are_those_that_r1vlm_eval_finds(name: str, several_turns: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "run", several_turns / name
    words = [name, "--data", data, "--model", "small", "--out", out, "--steps", "1", "--eval-steps", "1"]
    words += ["--set", "per_device_train_batch_size=8", "--num-generations", "4", "--no-report"]
    assert (done := invoke("training.cli", *words)).returncode == 0, done.stderr
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    held_out = {key.removeprefix("held_out/"): value for row in rows for key, value in row.items() if "held_out" in key}
    done = invoke("evaluation.cli", out / "best", "--split", "validation", "--out", tmp_path / "eval")
    assert done.returncode == 0, done.stderr
    rewards = json.loads((tmp_path / "eval" / "results.json").read_text())["rewards"]
    assert {key: held_out[key] for key in rewards} == pytest.approx(rewards)
    assert rewards["format"] > 0  # the cold start has taught it that much


def test_a_cold_start_shows_each_message_behind_what_was_there_before(
    zoom_folder: Path, random_checkpoint: Path
) -> None:
    _, processor = load_model(str(random_checkpoint))
    rows = open_dataset(zoom_folder).questions("train").select(range(3))
    traces = sft.episode_traces(rows, processor)
    assert len(traces) == sum(len(row["turns"]) + 1 for row in rows)
    expected = [full_message(trace["completion"].removesuffix("<|im_end|>")) for trace in traces]
    assert expected == [text for row in rows for text in [*row["turns"], row["solution"]]]
    for trace in traces:
        assert trace["prompt"].count(processor.image_token) == len(trace["images"])
    row = rows[0]
    ids = processor(text=[traces[0]["prompt"]], images=[traces[0]["images"]])["input_ids"][0]
    talk = conversation(row, trace_of(find_task(row["task"]), row))
    text = processor.apply_chat_template(talk, tokenize=False)
    whole = processor(text=[text], images=[images_in(talk)])["input_ids"][0]
    assert longest_trace(rows.select([0]), processor) == len(whole) - len(ids)


def test_texts_become_tokens_once(random_checkpoint: Path) -> None:
    model, processor = load_model(str(random_checkpoint))
    tokenizer, table = processor.tokenizer, model.get_input_embeddings().weight
    pieces = tokenizer("zoom ")["input_ids"]
    mean = table[pieces].mean(0)
    for _ in range(2):
        add_tokens(model, tokenizer, ["zoom ", "</tool>"])
    assert len(pieces) > 1
    (one,) = tokenizer("zoom ")["input_ids"]
    torch.testing.assert_close(table[one], mean)
    assert (
        tokenizer.decode(tokenizer("<tool>zoom 5</tool>")["input_ids"], skip_special_tokens=True)
        == "<tool>zoom 5</tool>"
    )
    with pytest.raises(UserError, match="the model has room for"):
        add_tokens(model, tokenizer, [f"text {i}" for i in range(600)])
