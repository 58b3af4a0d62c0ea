"""Images on their way into a model: RGB whatever the file has, the size that was asked for, and each in its own row."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datagen.common.errors import UserError
from datagen.dataset.reader import open_dataset
from datagen.hub.chat_template import check_questions
from datagen.hub.checkpoint import load_processor
from datagen.registry import find_dataset
from datagen.schema import arrow_schemas
from evaluation.backends import transformers as transformers_backend
from evaluation.backends.base import Prompt, Sampling
from tests.conftest import Asked
from tests.processes import invoke, refused
from training.models import configure_image_processor

FAMILIES: dict[str, dict[str, Any]] = {  # image processors by the models that have them; sizes are made small
    "Qwen2VLImageProcessor": {"size": {"shortest_edge": 784, "longest_edge": 50176}},
    "SmolVLMImageProcessor": {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 64}},
    "Gemma3ImageProcessor": {"size": {"height": 56, "width": 56}, "do_convert_rgb": None},  # as published
    "GotOcr2ImageProcessor": {"size": {"height": 56, "width": 56}},  # InternVL's
    "LlavaOnevisionImageProcessor": {"size": {"height": 56, "width": 56}},
}
MODES = ("P", "L", "LA", "RGBA", "1")


def picture(mode: str) -> bytes:
    """A PNG of two halves in a mode; in `P` the darker half has the larger index."""
    drawn = Image.new("RGB", (40, 30), (250, 240, 230))
    drawn.paste((10, 60, 120), (0, 0, 20, 30))
    if mode == "P":
        image = drawn.quantize(2)
    else:
        image = drawn.convert(mode)
        if mode in ("LA", "RGBA"):
            image.putalpha(Image.linear_gradient("L").resize(drawn.size))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_of_any_mode_goes_in_as_rgb(family: str, digits_folder: Path) -> None:
    import transformers
    from datasets import Dataset, Features

    processor = getattr(transformers, family)(**FAMILIES[family])
    column = Features.from_arrow_schema(arrow_schemas(find_dataset("digits"))["r1"])["image"]
    files = [picture(mode) for mode in MODES]
    rows = Dataset.from_dict({"image": [{"bytes": file} for file in files]}, Features({"image": column}))
    ours = open_dataset(digits_folder).questions("train").select(range(1))  # which have a palette in their files
    stored = ours.with_format("arrow")[0]["image"][0]["bytes"].as_py()
    assert Image.open(io.BytesIO(stored)).mode == "P"
    for file, image in zip([*files, stored], [*rows["image"], ours[0]["image"]], strict=True):
        plain = Image.open(io.BytesIO(file)).convert("RGB")
        wanted = processor(images=[plain], return_tensors="pt")["pixel_values"]
        assert torch.equal(processor(images=[image], return_tensors="pt")["pixel_values"], wanted)


def test_an_evaluation_gives_pictures_with_a_palette_as_rgb(
    digits_folder: Path, random_checkpoint: Path, tmp_path: Path, asked: list[Asked]
) -> None:
    words = [random_checkpoint, "--data", digits_folder, "--limit", "6", "--max-new-tokens", "1"]
    done = invoke("evaluation.cli", *words, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = open_dataset(digits_folder).questions("test").select(range(6)).with_format("arrow")
    files = dict.fromkeys(row["image"][0]["bytes"].as_py() for row in rows)  # each once, in order
    pictures = [Image.open(io.BytesIO(file)) for file in files]
    assert {picture.mode for picture in pictures} == {"P"}
    plain = load_processor(random_checkpoint).image_processor([one.convert("RGB") for one in pictures])
    (batch,) = asked
    assert torch.equal(batch.images["pixel_values"], torch.as_tensor(plain["pixel_values"]))


@pytest.mark.parametrize("command", ["evaluation.cli", "training.cli"])
def test_a_question_with_a_placeholder_in_its_text_is_refused(
    command: str, random_checkpoint: Path, tmp_path: Path
) -> None:
    lines = ["image,question,answer"]
    for i in range(40):
        color = (6 * i, 255 - 6 * i, i * i % 256)
        image = Image.effect_noise((56, 56), 10 + 5 * i).convert("RGB")
        image.paste(color, (i % 7 * 8, i // 7 * 8, i % 7 * 8 + 9, i // 7 * 8 + 9))
        image.save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,Which is it <|image_pad|>?,{i}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    data, out = tmp_path / "data", tmp_path / "out"
    columns = ["--question", "question", "--answer", "answer", "--judge", "exact"]
    done = invoke("datagen.cli", "import", tmp_path / "table.csv", *columns, "--out", data)
    assert done.returncode == 0, done.stderr
    words = {"evaluation.cli": [random_checkpoint], "training.cli": ["own-exact", "--model", random_checkpoint]}
    done = invoke(command, *words[command], "--data", data, "--out", out)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "image placeholder" in done.stderr.splitlines()[-1]
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("{size: {longest_edge: 50000}}", "is not possible: `size` dict must contain 'shortest_edge'"),
        ("{max_pixels: 50000}", "{size: {longest_edge: 50000, shortest_edge: 784}}"),
        ("{min_pixels: 3136}", "{size: {longest_edge: 50176, shortest_edge: 3136}}"),
        ("{do_resise: false}", "did you mean 'do_resize'"),
        ("{patch_size: large}", "is not possible"),
    ],
)
def test_image_settings_that_no_picture_can_have_are_refused_before_the_model_is_loaded(
    setting: str, says: str, digits_folder: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(random_checkpoint, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"")  # it would be refused too
    words = ["digits", "--data", digits_folder, "--model", folder, "--out", tmp_path / "run", "--cold-start"]
    assert says in refused(invoke("training.cli", *words, "--set", f"image_processor={setting}"))
    assert not (tmp_path / "run").exists()


def test_no_processor_takes_over_the_limits_of_one_made_before(
    random_checkpoint: Path, digits_folder: Path, tmp_path: Path, asked: list[Asked]
) -> None:
    from transformers import Qwen2VLImageProcessor

    usual = dict(Qwen2VLImageProcessor.size)
    for name, limits in (("limited", {"max_pixels": 3136}), ("open", {})):
        folder = shutil.copytree(random_checkpoint, tmp_path / name)
        settings = json.loads((folder / "processor_config.json").read_text())
        del settings["image_processor"]["size"]
        settings["image_processor"] |= limits
        (folder / "processor_config.json").write_text(json.dumps(settings))
    limited = load_processor(tmp_path / "limited")
    assert limited.image_processor.size["longest_edge"] == 3136
    configure_image_processor(limited, {"size": {"shortest_edge": 784, "longest_edge": 1568}})
    assert dict(Qwen2VLImageProcessor.size) == usual
    patches = []
    for name in ("limited", "open"):  # the commands, one behind the other in this process
        words = [tmp_path / name, "--data", digits_folder, "--limit", "2", "--max-new-tokens", "2"]
        done = invoke("evaluation.cli", *words, "--out", tmp_path / f"eval {len(patches)}")
        assert done.returncode == 0, done.stderr
        patches.append(asked[-1].images["image_grid_thw"].prod(-1).tolist())
    assert max(patches[0]) <= 3136 // 14**2 < min(patches[1])


def test_a_processor_is_loaded_without_a_word(random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers
    from transformers.utils.import_utils import logger

    said: list[str] = []
    monkeypatch.delattr(transformers, "Qwen2VLImageProcessorFast", raising=False)  # an alias, made when it is asked for
    monkeypatch.setattr(logger, "warning_once", said.append)
    load_processor(random_checkpoint)
    assert said == []


@pytest.mark.parametrize("text", ["How many <|image_pad|> dots?", "<|image_pad|><|image_pad|>"])
def test_a_placeholder_too_many_is_named_and_takes_no_other_rows_image(text: str, random_checkpoint: Path) -> None:
    backend = transformers_backend.load(random_checkpoint, Sampling(2), 8)
    image = Image.new("RGB", (56, 56), "white")
    prompts = [
        Prompt(str(i), [{"role": "user", "content": asked}], [image], True) for i, asked in enumerate(["A?", text])
    ]
    with pytest.raises(
        UserError, match=r"image placeholders \(<\|image_pad\|>\) and 1 image: take the placeholder out"
    ):
        list(backend.generate(prompts))
    check_questions([prompts[0].messages], backend.processor)
    with pytest.raises(UserError, match="in its text"):
        check_questions([prompt.messages for prompt in prompts], backend.processor)


def test_a_placeholder_too_few_is_named(random_checkpoint: Path) -> None:
    backend = transformers_backend.load(random_checkpoint, Sampling(2), 8)
    backend.processor.chat_template = backend.processor.chat_template.replace("<|image_pad|>", "")
    prompts = [Prompt("1", [{"role": "user", "content": "A?"}], [Image.new("RGB", (56, 56))], True)]
    with pytest.raises(UserError, match="a prompt has 0 image placeholders"):
        list(backend.generate(prompts))


def test_a_chat_template_that_shows_one_image_of_several_is_named(random_checkpoint: Path) -> None:
    processor = load_processor(random_checkpoint)
    question = [{"role": "user", "content": "A?"}]
    check_questions([question], processor, images=3)
    processor.chat_template = processor.chat_template.replace("== 'image'", "== 'image' and loop.first")
    check_questions([question], processor)
    with pytest.raises(UserError, match=r"a prompt has 1 image placeholders .* and 3 images"):
        check_questions([question], processor, images=3)
