"""`r1vlm-eval --env`: tasksets of somebody else's, asked by our backends and judged by the real verifiers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datagen.common.errors import UserError
from datagen.taskset.play import Turn, reply_of
from evaluation.backends import transformers
from evaluation.backends.base import Sampling
from evaluation.config import EvalConfig
from evaluation.evaluator import evaluate
from evaluation.report.results import EvalResult
from evaluation.taskset_variant import TasksetPrompt
from tests.evaluation.conftest import Call
from tests.evaluation.server import images_in
from tests.evaluation.test_servers import Asked, answering
from tests.outside import registry_restored
from tests.processes import refused
from tests.tasksets import PACKAGES
from tests.test_docs import PAGES, block_lines

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("verifiers") is None, reason="verifiers is not installed: make test-verifiers"
)
LETTERS = {(255, 0, 0): "A", (0, 128, 0): "B", (0, 0, 255): "C", (255, 255, 0): "D", (0, 0, 0): "E"}
HEAD = "from __future__ import annotations\nimport verifiers.v1 as vf\n"
HEAD += "from PIL import Image\nfrom verifiers.v1.utils.image import image_data_url\n"
TASKSET = """
__all__ = ["Some"]
PIXEL = image_data_url(Image.new("RGB", (28, 28)))

class Thing(vf.Task[vf.TaskData]):
    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        return 1.0

class Some(vf.Taskset[Thing, vf.TasksetConfig]):
    def load(self):
        image = vf.ImageUrlContentPart(image_url=vf.ImageUrlSource(url=PIXEL))
        yield Thing(vf.TaskData(prompt=[vf.UserMessage(content=[image])]), self.config.task)
"""


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder whose packages count as installed, as those of the tests do."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(PACKAGES)
    monkeypatch.syspath_prepend(folder)
    with registry_restored():
        yield folder
    for name in [name for name in sys.modules if name.startswith("theirs")]:
        del sys.modules[name]


def answer(text: str) -> Any:
    """A whole response of a server: verifiers reads more of it than we do."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "served", "choices": [choice]}


def spell(messages: list[dict[str, Any]]) -> str:
    """The letters of all squares in a conversation."""
    images = [image for message in messages if message["role"] == "user" for image in images_in(message)]
    return "".join(LETTERS[image.convert("RGB").getpixel((0, 0))] for image in images)


def colors(body: dict[str, Any], number: int) -> Any:
    """What a model says that sees the colors, and is wrong where the last one is black."""
    word = spell(body["messages"])
    return answer(f"It is {word[:-1] + 'A' if word.endswith('E') else word}")


def vf_eval(address: str, place: Path, env: str, tasks: int) -> dict[int, dict[str, float]]:
    """The rewards that the real `vf-eval` gives, by the number of the task."""
    words = [env, "-m", "served", "--client.base-url", address, "--client.api-key-var", "OPENAI_API_KEY"]
    words += ["--env.agent.harness.id", "asks_here", "--env.agent.runtime.type", "subprocess", "-n", str(tasks)]
    done = subprocess.run(
        [Path(sys.executable).parent / "vf-eval", *words, "--no-push", "--no-rich", "-o", str(place)],
        env={**os.environ, "PYTHONPATH": str(PACKAGES), "HOME": str(place), "OPENAI_API_KEY": "EMPTY"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = place.rglob("traces.jsonl")
    traces = [trace for line in written.read_text().splitlines() for trace in json.loads(line)["traces"]]
    assert [trace["errors"] for trace in traces] == [[]] * tasks
    return {
        one["task"]["data"]["idx"]: {name: reward["score"] for name, reward in one["rewards"].items()} for one in traces
    }


def conversations(asked: Asked) -> set[str]:
    """The messages of all requests: roles, texts and images, in order."""
    return {json.dumps([canonical(message) for message in body["messages"]]) for body in asked.bodies}


def canonical(message: dict[str, Any]) -> list[Any]:
    parts = message["content"]
    parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
    pixels = iter([image.convert("RGB").tobytes().hex()[:60] for image in images_in(message)] if len(parts) > 1 else [])
    return [message["role"], *(part["text"] if part["type"] == "text" else next(pixels) for part in parts)]


def ask(env: str, out: Path, *, model: str | Path = "served", **more: Any) -> EvalResult:
    """Evaluate a model on a taskset."""
    return evaluate(EvalConfig(checkpoint=str(model), env=env, out=out, **more))


def test_episodes_and_rewards_are_those_of_verifiers(tmp_path: Path) -> None:
    with answering(colors) as (address, asked):
        theirs = vf_eval(address, tmp_path / "theirs", "color_words", 12)
        their_questions = conversations(asked)
        asked.bodies.clear()
        ours = ask("color_words", tmp_path / "ours", endpoint=address, limit=12, report=True)
    assert conversations(asked) == their_questions
    assert len(asked.bodies) == 3 * 12
    rewards = [one["exact"] for one in ours.scored["after"].rewards]
    assert rewards == [theirs[number]["exact"] for number in range(12)]
    assert 0 < sum(rewards) < 12
    assert ours.summary["rewards"] == {"exact": sum(rewards) / 12, "correctness": sum(rewards) / 12}
    page = (tmp_path / "ours" / "report.html").read_text()
    assert "2 more. Spell all so far." in page
    assert "no answer" not in page


def test_rewards_with_weights_are_those_of_verifiers(tmp_path: Path) -> None:
    said = ["Black.", "red", "green", "blue and no other color", "YELLOW"]

    def some(body: dict[str, Any], number: int) -> Any:
        (image,) = images_in(body["messages"][-1])
        return answer(said[image.height % 5])

    with answering(some) as (address, asked):
        theirs = vf_eval(address, tmp_path / "theirs", "one-square", 40)
        their_questions = conversations(asked)
        asked.bodies.clear()
        ours = ask("one-square", tmp_path / "ours", endpoint=address)
    assert conversations(asked) == their_questions
    found = [{name: one[name] for name in ("color", "brief")} for one in ours.scored["after"].rewards]
    assert found == [theirs[number] for number in range(40)]
    assert {one["correctness"] for one in ours.scored["after"].rewards} >= {0.0, 0.25, 1.0}


def test_a_model_here_and_the_same_on_a_server(random_checkpoint: Path, tmp_path: Path) -> None:
    backend = transformers.load(random_checkpoint, Sampling(12), 1)

    def say(body: dict[str, Any], number: int) -> Any:
        turns = [turn_of(message) for message in body["messages"]]
        [(_, text)] = backend.generate([TasksetPrompt("served", (), (), opening=False, turns=turns)])
        return answer(text)

    for env, limit in (("one_square", 8), ("color_words", 4)):
        with answering(say) as (address, _):
            served = ask(env, tmp_path / f"served-{env}", endpoint=address, limit=limit, max_new_tokens=12,
                         batch_size=1)  # fmt: skip
        here = ask(env, tmp_path / f"here-{env}", model=random_checkpoint, limit=limit, max_new_tokens=12)
        assert [one.messages for one in here.scored["after"].episodes] == [
            one.messages for one in served.scored["after"].episodes
        ]
        assert any(here.scored["after"].messages)


def turn_of(message: dict[str, Any]) -> Turn:
    """A message of a request."""
    parts, images = message["content"], iter(images_in(message) if isinstance(message["content"], list) else [])
    parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
    return Turn(message["role"], tuple(part["text"] if part["type"] == "text" else next(images) for part in parts))


def test_an_evaluation_goes_on_and_its_completions_are_scored_again(tmp_path: Path) -> None:
    limits = [8]

    def dies(body: dict[str, Any], number: int) -> Any:
        return colors(body, number) if number <= limits[0] else (401, {"error": "no more"})

    def go(out: str, **more: Any) -> EvalResult:
        return ask("color_words", tmp_path / out, limit=5, **more)

    with answering(dies) as (address, asked):
        with pytest.raises(UserError, match="no more"):
            go("out", endpoint=address, batch_size=1)
        limits[0] = 100
        first = go("out", endpoint=address, batch_size=1)
    assert len(asked.bodies) == 3 * 5 + 1  # the one that was refused
    path = tmp_path / "out" / "completions.jsonl"
    turns = [turn for line in path.read_text().splitlines() for turn in json.loads(line)["turns"]]
    assert [(turn["text"], len(turn["image"])) for turn in turns] == [("2 more. Spell all so far.", 64)] * 10
    again = go("again", model=path)
    assert again.scored["after"].rewards == first.scored["after"].rewards


def test_an_episode_that_breaks_off_is_judged_as_it_stands(tmp_path: Path) -> None:
    def breaks_off(body: dict[str, Any], number: int) -> Any:
        late = len(body["messages"]) > 2 and number % 2
        return (400, {"error": "too long"}) if late else colors(body, number)

    with answering(breaks_off) as (address, _):
        done = ask("color_words", tmp_path / "out", endpoint=address, limit=4, batch_size=1)
    assert 0 < done.summary["unanswered"] < 4
    assert [len(one.messages) for one in done.scored["after"].episodes].count(3) < 4


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ("red", "red"),
        ("<think>It is blue.</think> red", "red"),
        ("It is blue.</think>\nred", "red"),
        ("Let me solve this step by step.\n<think>It is blue.</think>red", "red"),
        ("Let me solve this step by step.\n<think>red", "red"),
        ("", ""),
    ],
)
def test_the_reasoning_is_no_content(message: str, content: str) -> None:
    assert reply_of(message)["content"] == content


REFUSED = {
    "theirs_old": ("def load_environment(): ...", "before 0.4"),
    "theirs_none": ("__all__ = []", "has no taskset that verifiers can load"),
    "theirs_broken": ("import no_such_module", "can't be loaded"),
    "theirs_box": (TASKSET + "Thing.NEEDS_CONTAINER = True", "needs a sandbox"),
    "theirs_image": (TASKSET.replace("TaskData(", "TaskData(image='debian', "), "needs a sandbox"),
    "theirs_runtime": (TASKSET.replace("trace: vf.Trace", "trace: vf.Trace, runtime: vf.Runtime"), "needs a sandbox"),
    "theirs_set_up": (TASKSET + "\nasync def setup(self, trace, runtime): ...\nThing.setup = setup", "needs a sandbox"),
    "theirs_rewardless": (TASKSET.replace("@vf.reward", "@vf.metric"), "has no rewards"),
    "theirs_text": (TASKSET.replace("[image]", "'Which color?'"), "without an image"),
    "theirs_far": (TASKSET.replace("url=PIXEL", "url='http://localhost/a.png'"), "by its address"),
    "theirs_damaged": (TASKSET.replace("url=PIXEL", "url=PIXEL[:60]"), "can't be read"),
    "theirs_large": (TASKSET.replace("1.0", "2.0"), "0 to 1 is wanted"),
    "theirs_raising": (TASKSET.replace("return 1.0", "return 1 / 0"), "raises in an episode: __init__.py, line"),
    "theirs_empty": (TASKSET.replace("        yield", "        if False: yield"), "has no tasks"),
    "theirs_endless": (TASKSET + "Some.INFINITE = True", "--limit"),
    "theirs_weightless": (TASKSET.replace("@vf.reward", "@vf.reward(weight=0.0)"), "weights"),
    "theirs_several": (
        TASKSET.replace('"Some"', '"Some", "Pair"')
        + "\nclass Two(vf.EnvConfig):\n    one: vf.AgentConfig = vf.AgentConfig()\n    other: vf.AgentConfig = "
        "vf.AgentConfig()\nclass Pair(vf.Env[Two]):\n    async def run(self, task, agents): ...",
        "2 agents",
    ),
    "theirs_judged": (
        TASKSET.replace('"Some"', '"Some", "Own"')
        + "\nclass Own(vf.SingleAgentEnv):\n    async def finalize(self, task, episode): ...",
        "its own finalize()",
    ),
    "theirs_silent": (
        TASKSET.replace('"Some"', '"Some", "Own"')
        + "\nclass Own(vf.SingleAgentEnv):\n    async def run(self, task, agents): ...",
        "without asking",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_is_said_in_a_sentence(
    name: str, packages: Path, r1vlm_eval: Call, tmp_path: Path
) -> None:
    code, sentence = REFUSED[name]
    (packages / name).mkdir()
    (packages / name / "__init__.py").write_text(f"{HEAD}{code}\n")
    done = r1vlm_eval("served", "--endpoint", "http://127.0.0.1:9/v1", "--env", name, "--out", tmp_path / "out")
    assert sentence in refused(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--env", "no-such-package"], "no installed package"),
        (["--env", "somebody/color-words"], "install it, and name it"),
        (["--env", "color_words", "--data", "data/digits"], "--data is for the datasets of r1vlm"),
        (["--env", "color_words", "--split", "train"], "--split is for"),
        (["--env", "color_words", "--controls"], "--controls is for"),
    ],
)
def test_what_is_named_wrongly_is_said_in_a_sentence(words: list[str], sentence: str, r1vlm_eval: Call) -> None:
    assert sentence in refused(r1vlm_eval("served", "--endpoint", "http://127.0.0.1:9/v1", *words))


def test_the_commands_of_the_documentation_run(r1vlm_eval: Call, random_checkpoint: Path, tmp_path: Path) -> None:
    section = PAGES["other-tools.md"].partition("## A taskset of verifiers in r1vlm")[2].partition("`r1vlm-train")[0]
    commands = [line for line in block_lines(section) if line.startswith("r1vlm-eval ")]
    assert len(commands) == 2
    with answering(colors) as (address, _):
        named = {"PACKAGE": "color_words", "MODEL": "served", "http://127.0.0.1:8000/v1": address, "100": "2"}
        named["Qwen/Qwen2.5-VL-3B-Instruct"] = str(random_checkpoint)
        for number, line in enumerate(commands):
            _, *words = [named.get(word, word) for word in line.split()]
            done = r1vlm_eval(*words, "--max-new-tokens", 8, "--out", tmp_path / str(number))
            assert done.returncode == 0, done.stderr
            assert (tmp_path / str(number) / "report.html").is_file()


def test_verifiers_is_loaded_for_a_taskset_alone() -> None:
    ours = "evaluation.evaluator, training.pipeline, datagen.taskset.questions"
    code = f"import sys, {ours}; print('verifiers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
