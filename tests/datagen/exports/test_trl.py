"""The exported script, run by TRL's own trainer."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOTrainer

from datagen.dataset.reader import open_dataset
from datagen.export.trl import export
from datagen.interaction import question_images
from datagen.r1_format import OPENING
from tests.datagen.exports.answers import BASE, answered, worth

SETTINGS = (
    "--max_steps 2 --per_device_train_batch_size 2 --num_generations 2 --max_completion_length 8 --use_cpu --bf16 0"
)


@pytest.mark.slow
def test_it_trains_asks_what_we_ask_and_judges_as_we_judge(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = open_dataset(folder)
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

    questions: dict[str, list[list[bytes]]] = {}
    for row in built.questions("train"):
        pixels = [image.tobytes() for image in question_images(row)]
        questions.setdefault(row["prompt"][1]["content"], []).append(pixels)
    assert len(asked) >= 4
    for prompt, images in asked:
        [(text, known)] = [(text, known) for text, known in questions.items() if text in prompt]
        assert [image.convert("RGB").tobytes() for image in images] in known
        assert prompt.count("<|vision_start|>") == len(images)
        assert prompt.rindex("<|image_pad|>") < prompt.index(text)
        assert prompt.endswith(OPENING)

    answers = answered(folder, "train")
    rows, texts = zip(*answers, strict=True)
    said = [[{"role": "assistant", "content": text}] for text in texts]
    got = trainer._calculate_rewards(list(rows), [row["prompt"] for row in rows], said, [[0]] * len(rows))
    names = [function.__name__ for function in trainer.reward_funcs]
    assert names == ["format", "correctness"]
    assert [dict(zip(names, rewards, strict=True)) for rewards in got.tolist()] == worth(answers)
