"""The exported tasks in the real lmms-eval, which `make test-lmms-eval` installs."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datagen import r1_format
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.reader import open_dataset
from datagen.dataset.reward_audit import ATTACKS
from datagen.export.lmms_eval import write_tasks
from datagen.registry import find_task
from datagen.task import score
from evaluation.backends.base import Prompt, Sampling
from evaluation.backends.transformers import load
from evaluation.metrics.scoring import mean_rewards

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed: make test-lmms-eval"
)
BASE = Path(__file__).parents[2] / "training" / "builtin_models" / "base"
# A model whose answers are a file's, run by lmms-eval with the defaults of its own command line.
SCRIPTED = """
import json, sys
from lmms_eval import evaluator
from lmms_eval.__main__ import parse_eval_args
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from lmms_eval.tasks import TaskManager
tasks, answers, out, repeats = sys.argv[1:]
sys.argv = ["lmms-eval"]
_, defaults = parse_eval_args()

class Scripted(lmms):
    is_simple = False
    def generate_until(self, requests):
        texts = json.load(open(answers))
        questions = [self.task_dict[task][split][i] for _, _, _, i, task, split in (one.args for one in requests)]
        prompts = [ChatMessages(messages=one.args[1](question)) for one, question in zip(requests, questions)]
        assert all(len(prompt.extract_media()[0]) == 1 for prompt in prompts)
        return [texts[question["id"]].pop(0) for question in questions]
    def loglikelihood(self, requests):
        raise NotImplementedError
    generate_until_multi_round = loglikelihood

manager = TaskManager(include_path=tasks, include_defaults=False)
found = evaluator.simple_evaluate(
    Scripted(), tasks=["r1vlm_digits"], task_manager=manager, cli_args=defaults, bootstrap_iters=0, log_samples=True,
    repeats=int(repeats),
)
samples = [sample for samples in found["samples"].values() for sample in samples]
rewards = {s["doc"]["id"]: {name: s[name] for name in ("format", "correctness")} for s in samples}
json.dump({"rewards": rewards, "group": found["results"]["r1vlm_digits"]}, open(out, "w"))
"""


@pytest.fixture(scope="module")
def tasks(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported tasks of the small dataset."""
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(open_dataset(digits_folder), folder)
    return folder


def python(*words: str | Path) -> None:
    """Run Python without a network, in an environment that has lmms-eval."""
    done = subprocess.run([sys.executable, *words], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("repeats", [1, 3])
def test_every_answer_gets_our_rewards(repeats: int, digits_folder: Path, tasks: Path, tmp_path: Path) -> None:
    questions = open_dataset(digits_folder).questions("test").remove_columns("image").to_list()
    texts = {
        question["id"]: [
            r1_format.completion_of(ATTACKS[at].text(question) if at % 2 else question["solution"])
            for at in range(i, i + repeats)
        ]
        for i, question in enumerate(questions)
    }
    (tmp_path / "answers.json").write_text(json.dumps(texts))
    python("-c", SCRIPTED, tasks, tmp_path / "answers.json", tmp_path / "out.json", str(repeats))
    out: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
    ours = {
        q["id"]: mean_rewards(score(find_task(q["task"]), r1_format.full_message(text), q) for text in texts[q["id"]])
        for q in questions
    }
    assert out["rewards"] == ours
    total = mean_rewards(ours.values())
    assert {name: out["group"][f"{name},none"] for name in ("format", "correctness")} == pytest.approx(total)
    assert 0 < total["correctness"] < 1


def ask(name: str, tasks: Path, out: Path) -> None:
    """Have lmms-eval's chat class of Qwen2.5-VL answer exported tasks with the built-in checkpoint."""
    model = f"pretrained={BASE},device=cpu,device_map=cpu,min_pixels=784,max_pixels=50176"
    words = ["--tasks", name, "--include_path", tasks, "--model", "qwen2_5_vl", "--model_args", model]
    python("-m", "lmms_eval", *words, "--batch_size", "8", "--log_samples", "--output_path", out)


def test_a_checkpoint_is_asked_the_same_and_says_the_same(digits_folder: Path, tasks: Path, tmp_path: Path) -> None:
    ask("r1vlm_digits", tasks, tmp_path)
    engine = load(BASE, Sampling(512, 0.0, 1), 8)
    engine.model.bfloat16()  # as lmms-eval loads every model
    for task in ("list", "sum"):
        (file,) = tmp_path.rglob(f"*_samples_r1vlm_digits_{task}.jsonl")
        theirs = [json.loads(line)["filtered_resps"][0] for line in file.read_text().splitlines()]
        asked = open_dataset(digits_folder).questions("test", [task])
        ours = [
            text
            for _, text in engine.generate(
                [Prompt(row["id"], row["prompt"], [row["image"]], opening=True) for row in asked]
            )
        ]
        assert theirs == ours
        assert len(set(ours)) > len(ours) / 2  # it looks at the images


def test_a_long_answer_is_not_cut(tmp_path: Path) -> None:
    """Where a task doesn't say, that class generates 128 tokens; the longest solutions of counting have more."""
    built = open_dataset(build(DatasetConfig(dataset="counting", size=20), tmp_path / "data", workers=1))
    write_tasks(built, tmp_path / "tasks")
    ask("r1vlm_counting", tmp_path / "tasks", tmp_path / "out")
    (file,) = (tmp_path / "out").rglob("*_samples_r1vlm_counting_count.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert max(count["output_tokens"] for line in lines for count in line["token_counts"]) > 128
