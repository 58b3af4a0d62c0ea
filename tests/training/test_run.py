"""`r1vlm-train` as users run it, on the small model with random weights: a run folder, a crash, and going on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datagen import r1_format
from datagen.common.errors import UserError
from datagen.common.locks import locked
from datagen.registry import TASKS
from datagen.task import reward_hash
from tests.conftest import MakeOnce
from tests.processes import invoke, kill_when, refused, run
from tests.training.conftest import TINY
from training.run_folder import LOCK, RUN_FILE, hold_folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def killed_and_resumed(make_once: MakeOnce, few_digits: Path, random_checkpoint: Path) -> Path:
    """A GRPO run of six steps, killed behind its second checkpoint (step 4), then resumed."""

    def fill(folder: Path) -> None:
        out = folder / "digits"
        words = ["digits", "--data", few_digits, "--model", random_checkpoint, "--out", out, "--steps", "6"]
        words += [*TINY, "--set", "save_steps=2"]
        kill_when((out / "checkpoint-4").is_dir, "training.cli", *words, "--no-report")
        assert not (out / "final").exists()
        with (out / "metrics.jsonl").open("a") as file:
            file.write('{"step": 5, "loss": 99}\n{"step": 5, "half-writ')  # what a kill may leave behind
        with (out / "completions.jsonl").open("a") as file:
            file.write('{"step": 1, "half{"step": 2, "of one": "and one of another process"}\n[]\n')
        assert "--resume" in refused(invoke("training.cli", *words))
        done = invoke("training.cli", *words, "--resume", "--no-report")
        assert done.returncode == 0, done.stderr
        assert f"{out.name}: goes on from checkpoint-4\n" in done.stdout
        assert not (out / "report").exists()
        again = run("training.cli", *words, "--resume", "--hardware", "2gpu")  # nothing is left to do on them
        assert "already trained" in again.stdout
        assert again.returncode == 0, again.stderr
        assert f"report: {out}/report/report.html" in again.stdout
        assert "seed=0, not 4" in refused(invoke("training.cli", *words, "--resume", "--seed", "4"))

    return make_once("killed-and-resumed", fill) / "digits"


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(killed_and_resumed: Path) -> None:
    metrics = lines(killed_and_resumed / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    assert all(row["loss"] != 99 for row in metrics)
    state = json.loads((killed_and_resumed / "final" / "trainer_state.json").read_text())
    assert state["global_step"] == 6
    assert not (killed_and_resumed / ".saving").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [["--cold-start", "--traces", "8"], ["--eval-steps", "2"]])
def test_a_run_that_was_killed_behind_its_last_step_takes_no_other(
    stage: list[str], few_digits: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["digits", "--data", few_digits, "--model", random_checkpoint, "--out", out, "--steps", "2", "--no-report"]
    words += [*TINY, *stage, "--set", "save_steps=2"] if "--eval-steps" in stage else stage
    assert invoke("training.cli", *words).returncode == 0
    files = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    last = (out / "final").resolve()
    (out / "final").unlink()  # as a kill just before it leaves the folder
    done = invoke("training.cli", *words, "--resume")
    assert done.returncode == 0, done.stderr
    assert (out / "final").resolve() == last
    assert {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()} == files


@pytest.mark.slow
def test_the_run_folder_has_everything(killed_and_resumed: Path, few_digits: Path) -> None:
    assert (killed_and_resumed / "reward_curve.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((killed_and_resumed / "run.json").read_text())["settings"]["max_steps"] == 6
    completions = lines(killed_and_resumed / "completions.jsonl")
    assert [row["step"] for row in completions] == [step for step in range(1, 7) for _ in range(8)]
    from datagen.dataset.reader import open_dataset

    questions = {row["id"]: row for row in open_dataset(few_digits).questions("train")}
    for row in completions:
        question = questions[row["id"]]
        assert row["completion"].startswith(r1_format.OPENING)
        rewards = TASKS[question["task"]].rewards
        assert row["rewards"] == {name: reward(row["completion"], question) for name, reward in rewards.items()}


@pytest.mark.slow
def test_a_checkpoint_says_what_made_it(killed_and_resumed: Path, few_digits: Path) -> None:
    from datagen.dataset.reader import open_dataset

    record = json.loads((killed_and_resumed / "final" / "r1vlm.json").read_text())
    assert record["dataset_fingerprint"] == open_dataset(few_digits).fingerprint
    assert record["reward_hash"] == {task: reward_hash(TASKS[task]) for task in ("list", "sum")}
    assert record["stage"] == "grpo"
    assert "6 steps of GRPO" in record["shown"]
    assert record["versions"]["trl"].startswith("1.16.")


@pytest.mark.slow
def test_a_checkpoint_starts_the_turn_with_the_opening_words_and_never_samples_vision_tokens(
    killed_and_resumed: Path,
) -> None:
    from transformers import AutoProcessor, GenerationConfig

    processor = AutoProcessor.from_pretrained(killed_and_resumed / "final")
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "Q"}]}], add_generation_prompt=True, tokenize=False
    )
    assert prompt.endswith("assistant\n" + r1_format.OPENING)
    assert prompt.count(r1_format.OPENING) == 1
    banned = GenerationConfig.from_pretrained(killed_and_resumed / "final").suppress_tokens
    assert {processor.tokenizer.convert_ids_to_tokens(token) for token in banned} == set(r1_format.VISION_TOKENS)


@pytest.mark.slow
def test_cold_start_trains_on_the_asked_number_of_traces(
    digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cold"
    words = ["sum", "--data", digits_folder, "--model", random_checkpoint, "--out", out, "--cold-start"]
    done = invoke("training.cli", *words, "--traces", "12", "--steps", "8", "--set", "per_device_train_batch_size=12")
    assert done.returncode == 0, done.stderr
    losses = [row["loss"] for row in lines(out / "metrics.jsonl") if "loss" in row]
    assert len(losses) == 8
    assert losses[-1] < 0.8 * losses[0]
    record = json.loads((out / "final" / "r1vlm.json").read_text())
    assert record["shown"] == "8 steps of supervised training on 12 correct traces of sum."
    assert record["tasks"] == ["sum"]


LOOKING = """
import os, sys, torch
from training import cli
def looked(look, *given):
    print("looked at", os.environ["CUDA_VISIBLE_DEVICES"] or "none", flush=True)
    return look(*given)
for name in ("is_available", "device_count", "current_device"):
    setattr(torch.cuda, name, lambda *given, look=getattr(torch.cuda, name): looked(look, *given))
cli.main()
"""


@pytest.mark.slow
def test_torch_looks_for_gpus_when_all_others_are_hidden(
    digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    words = ["digits", "--data", digits_folder, "--model", random_checkpoint, "--out", tmp_path / "run"]
    command = [sys.executable, "-c", LOOKING, *map(str, words), "--cold-start", "--traces", "4", "--steps", "1"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "5,6"}
    done = subprocess.run(
        [*command, "--set", "bf16=false"], check=False, capture_output=True, text=True, timeout=300, env=env
    )
    assert done.returncode == 0, done.stderr
    assert {line for line in done.stdout.splitlines() if line.startswith("looked")} == {"looked at 5"}


SHARES = ("num_iterations=2", "num_train_epochs=1", "save_steps=0.1")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["digit"], "did you mean"),
        (["digits", "--data", "nowhere"], "there is no dataset nowhere"),
        (["digits", "--data", "DATA", "--task", "wort"], "there is no task 'wort'"),
        (["digits", "--data", "DATA", "--model", "nowhere"], "nowhere is no model folder"),
        (["digits", "--data", "DATA", "--model", "DATA"], "is no model folder"),
        (["digits", "--data", "DATA", "--out", "FILE"], "is a file"),
        (["digits", "--data", "DATA", "--out", "FULL"], "--resume"),
        (["digits", "--data", "DATA", "--steps", "0"], "--steps"),
        (["digits", "--data", "DATA", "--set", "temprature=1"], "did you mean 'temperature'"),
        (["digits", "--data", "DATA", "--num-generations", "3"], "no multiple of num_generations=3"),
        (
            ["digits", "--data", "DATA", "--learning-rate", "-1"],
            "'learning_rate', -1.0: input should be greater than 0",
        ),
        (["digits", "--data", "DATA", "--report-to", "papyrus"], "papyrus"),
        (
            ["digits", "--data", "DATA", "--set", "num_iterations=2", "--set", "save_steps=5"],
            "save_steps=5 falls between steps that train on the same completions, where no run can go on: make it a "
            "multiple of 2",
        ),
        (["digits", "--data", "DATA", "--set", "num_iterations=2", "--eval-steps", "3"], "eval_steps=3 falls"),
        (
            ["digits", "--data", "DATA", *(f"--set={one}" for one in SHARES)],
            "save_steps=0.1 falls between steps",
        ),
        (["digits", "--data", "DATA", "--set", "max_completion_length=10"], "cuts off right answers"),
        (["digits", "--data", "DATA", "--cold-start", "--set", "max_length=64"], "no trace is cut off"),
        (["digits", "--data", "DATA", "--set", "temperature=0"], "input should be above 0"),
        (["digits", "--data", "DATA", "--set", "top_p=1.5"], "input should be above 0, and at most 1"),
        (["digits", "--data", "DATA", "--set", "top_k=-1"], "or 0 for all"),
        (["digits", "--data", "DATA", "--set", "use_liger_kernel=true"], "pip install liger-kernel"),
        (["digits", "--data", "DATA", "--cold-start", "--num-generations", "4"], "--cold-start"),
        ([], "name a TASK"),
        (["digits", "--data", "DATA", "--hardware", "4gp"], "did you mean '4gpu'"),
        (["digits", "--data", "DATA", "--hardware", "4gpu"], "4gpu needs 4 GPUs, and 0 are visible"),
        (["digits", "--data", "DATA", "--hardware", "cpu", "--vllm", "server"], "use --hardware 2gpu"),
        (["digits", "--data", "DATA", "--hardware", "cpu", "--nodes", "3"], "--nodes is for multinode"),
    ],
)
def test_a_wrong_argument_gets_one_sentence(
    words: list[str], says: str, digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("something")
    places = {"DATA": digits_folder, "FULL": tmp_path / "full", "FILE": tmp_path / "full" / "file"}
    model = [] if "--model" in words else ["--model", str(random_checkpoint)]
    sentence = refused(invoke("training.cli", *(places.get(word, word) for word in words), *model, cwd=tmp_path))
    assert says in sentence


def test_a_folder_in_which_another_process_trains_is_refused(
    digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    words = ["digits", "--data", digits_folder, "--model", random_checkpoint, "--cold-start", "--out", out]
    with locked(out / LOCK, "nobody else is here"):
        assert f"another process trains in {out}" in refused(invoke("training.cli", *words, "--resume"))
    assert [path.name for path in out.iterdir()] == [LOCK]


def test_a_cold_start_is_not_gone_on_with_as_grpo(digits_folder: Path, tmp_path: Path) -> None:
    """That is said before the cold start of GRPO is trained."""
    out = tmp_path / "run"
    out.mkdir()
    (out / RUN_FILE).write_text('{"stage": "cold_start"}')
    words = ["digits", "--data", digits_folder, "--model", "small", "--hardware", "cpu", "--out", out, "--resume"]
    assert "was started with stage='cold_start', not 'grpo'" in refused(invoke("training.cli", *words))
    assert [path.name for path in out.iterdir()] == [RUN_FILE]


def test_a_folder_into_which_nothing_came_is_removed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="refused"), hold_folder(tmp_path / "run"):
        raise UserError("refused")
    assert not (tmp_path / "run").exists()
    with hold_folder(tmp_path / "run"):
        (tmp_path / "run" / "kept").touch()
    with hold_folder(tmp_path / "run"):  # it was released
        pass
    assert (tmp_path / "run" / "kept").exists()


@pytest.mark.slow
def test_a_checkpoint_without_its_optimizer_is_not_gone_on_with(
    few_digits: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["digits", "--data", few_digits, "--model", random_checkpoint, "--out", out, "--steps", "1", *TINY]
    words += ["--set", "save_only_model=true", "--no-report", "--no-preflight"]
    assert invoke("training.cli", *words).returncode == 0
    (out / "final").unlink()  # as after a kill behind the checkpoint
    before = (out / "metrics.jsonl").read_bytes()
    sentence = refused(invoke("training.cli", *words, "--resume"))
    assert "lacks the optimizer, learning rate, random state" in sentence
    assert (out / "metrics.jsonl").read_bytes() == before
