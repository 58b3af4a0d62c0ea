"""The exported script, run by TRL's own trainer."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import ImageChops
from trl import GRPOTrainer

from datagen.dataset.reader import open_dataset
from datagen.export.trl import export
from datagen.r1_format import OPENING
from tests.datagen.exports.answers import BASE, answered, worth

SETTINGS = (
    "--max_steps 2 --per_device_train_batch_size 2 --num_generations 2 --max_completion_length 8 --use_cpu --bf16 0"
)


@pytest.mark.slow
def test_it_trains_asks_what_we_ask_and_judges_as_we_judge(
    digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = open_dataset(digits_folder)
    export(built, tmp_path)
    asked: list[tuple[str, Any]] = []
    own = GRPOTrainer._tokenize_prompts

    def record(trainer: Any, prompts: list[Any]) -> Any:
        ids, images, fields = own(trainer, prompts)
        asked.extend(zip(trainer.processing_class.tokenizer.batch_decode(ids), images, strict=True))
        return ids, images, fields

    monkeypatch.setattr(GRPOTrainer, "_tokenize_prompts", record)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = f"train.py --model {BASE} --output_dir {tmp_path / 'out'} {SETTINGS} --report_to none --save_strategy no"
    monkeypatch.setattr(sys, "argv", words.split())
    trainer = runpy.run_path(str(tmp_path / "train.py"), run_name="__main__")["trainer"]
    assert trainer.state.global_step == 2
    assert (tmp_path / "out" / "model.safetensors").is_file()

    questions = {row["prompt"][1]["content"]: [] for row in built.questions("train").remove_columns("image")}
    for row in built.questions("train"):
        questions[row["prompt"][1]["content"]].append(row["image"])
    assert len(asked) >= 4
    for prompt, (image,) in asked:
        [(text, images)] = [(text, images) for text, images in questions.items() if text in prompt]
        assert any(ImageChops.difference(image, one).getbbox() is None for one in images)
        assert prompt.index("<|image_pad|>") < prompt.index(text)
        assert prompt.endswith(OPENING)

    answers = answered(digits_folder, "train")
    rows, texts = zip(*answers, strict=True)
    said = [[{"role": "assistant", "content": text}] for text in texts]
    got = trainer._calculate_rewards(list(rows), [row["prompt"] for row in rows], said, [[0]] * len(rows))
    names = [function.__name__ for function in trainer.reward_funcs]
    assert names == ["format", "correctness"]
    assert [dict(zip(names, rewards, strict=True)) for rewards in got.tolist()] == worth(answers)
