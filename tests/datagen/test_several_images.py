"""Several images of your own a question: what is imported, and what of it reaches the artefacts, models and exports."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value
from hypothesis import given
from hypothesis import strategies as st

from datagen.common.errors import UserError
from datagen.dataset.importing.splits import Rows, decide
from datagen.dataset.reader import check_shard, most_images, open_dataset
from datagen.export.questions import UTILS
from datagen.hub.checkpoint import load_processor
from datagen.interaction import question_images
from datagen.schema import arrow_schemas
from datagen.tasks.judges import JUDGES, OWN
from evaluation.prompt_variants import R1, ablation_variants
from tests.conftest import MakeOnce
from tests.datagen import own_images as own
from tests.datagen.exports.answers import BASE
from tests.datagen.own_images import import_, rows_of
from tests.datagen.test_export import function_of
from tests.evaluation.server import playing
from tests.hub import Hub, running
from tests.processes import invoke, refused, run
from training.launch.planner import largest_question

TABLE = ("--images", "files", "--question", "question", "--answer", "colour", "--judge", "exact")


@pytest.fixture(scope="session")
def several(make_once: MakeOnce) -> Path:
    """A dataset of a CSV with lists of paths, one of two images, with solutions, groups and levels."""

    def fill(folder: Path) -> None:
        table = own.write_csv(folder / "csv")
        words = (*TABLE, "--solution", "why", "--group", "album", "--difficulty", "level")
        done = import_(table, folder / "colours", *words)
        assert done.returncode == 0, done.stderr

    return make_once("own-several", fill) / "colours"


def check(folder: Path, count: int = own.COUNT - 1, first: int = 3, copy: int = own.COPY) -> None:
    """The faults are found, one of `count` rows has two images, and no image is in two splits.

    `first` is the number of the first row that shows what the row `copy` shows.
    """
    (line,) = folder.with_name(folder.name + ".broken.jsonl").read_text(encoding="utf-8").splitlines()
    assert "its image 1 can't be decoded" in json.loads(line)["reason"]
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["imported"]["changed"] == {"rotated": 1}
    assert manifest["imported"]["duplicates"] == 2  # the copy, and the picture that two rows show
    assert manifest["recipe"]["size"] == sum(manifest["splits"]["images"].values()) == count + 1
    splits = rows_of(folder)
    counts = [len(row["images"]) for rows in splits.values() for row in rows]
    assert sorted(counts) == [1] * (count - 1) + [2]
    pixels = {split: {one for row in rows for one in row["pixels"]} for split, rows in splits.items()}
    assert len(set().union(*pixels.values())) == sum(map(len, pixels.values())) == own.COUNT - 2
    rows = {int(row["id"][-8:]): row for found in splits.values() for row in found}
    two, next_one = rows[own.TWO], rows[own.TWO + 1]
    assert [image["bytes"] for image in two["images"]] == [own.contents()[own.TWO + at] for at in (0, 1)]
    assert two["images"][1] == next_one["images"][0]
    assert two["image_id"] == next_one["image_id"] == two["id"]
    assert rows[copy]["image_id"] == rows[first]["id"]
    done = invoke("datagen.cli", "verify", str(folder))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{count + 1} of {count + 1} images decoded again" in done.stdout
    assert f"  {count} of their solutions judged" in done.stdout


def test_a_csv_with_lists_of_paths(several: Path, tmp_path: Path) -> None:
    check(several)
    built = open_dataset(several)
    asked = [built.questions(split) for split in ("train", "validation", "test")]
    assert set(asked[0]["task"]) == {"own-exact-images"}
    assert asked[0].features["images"] == List(Image(mode="RGB"))
    assert max(map(most_images, asked)) == 2
    card = (several / "README.md").read_text(encoding="utf-8")
    assert "has `prompt` and `images`" in card
    assert "2 images are shown more than once" in card
    _, front, _ = card.split("---\n", 2)
    assert "dtype: list" not in front
    sheet = tmp_path / "sheet.png"
    assert invoke("datagen.cli", "preview", str(several), "--out", sheet).returncode == 0
    assert invoke("datagen.cli", "card", str(several)).returncode == 0
    assert (several / "README.md").read_text(encoding="utf-8") == card


def test_the_card_describes_the_columns_as_datasets_does(several: Path) -> None:
    import yaml

    front = yaml.safe_load((several / "README.md").read_text(encoding="utf-8").split("---\n", 2)[1])
    for info in front["dataset_info"]:
        features = Features._from_yaml_list(info["features"])
        assert features["images"] == List(Image(mode="RGB"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as hub:
        yield hub


def test_a_parquet_file_with_images_inside(tmp_path: Path) -> None:
    own.write_parquet(tmp_path / "part.parquet")
    words = ("--images", "images", *TABLE[2:])
    assert import_(tmp_path / "part.parquet", tmp_path / "out", *words).returncode == 0
    check(tmp_path / "out")


@pytest.mark.slow
def test_a_dataset_of_the_hub_is_trained_on(hub: Hub, tmp_path: Path) -> None:
    """It has splits of its own; a picture of train is also in test."""
    table = pq.read_table(own.write_parquet(tmp_path / "part.parquet"))
    features = Features({"images": List(Image()), "question": Value("string"), "colour": Value("string")})
    files = {}
    for split in ("train", "test"):
        rows = table.filter(pc.equal(table["part"], split)).select(list(features))
        Dataset(rows).cast(features).to_parquet(tmp_path / "hub.parquet")
        files[f"data/{split}-00000-of-00001.parquet"] = (tmp_path / "hub.parquet").read_bytes()
    hub.put("datasets/ada/pairs", files)
    here = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
    env = os.environ | here | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    words = ("import", "ada/pairs", "--images", "images", *TABLE[2:], "--split", "split", "--out", tmp_path / "out")
    assert "1 rows show what a row of another split shows" in refused(run("datagen.cli", *words, env=env))
    done = run("datagen.cli", *words, "--drop-duplicates", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    check(tmp_path / "out", own.COUNT - 2, first=159, copy=159)  # the first row of test
    assert len(rows_of(tmp_path / "out")["test"]) == 41  # all that were given
    train = ("own-exact-images", "--data", tmp_path / "out", "--model", BASE, "--steps", "2", "--no-report")
    done = run("training.cli", *train, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len([step for step in steps if "reward" in step]) == 2


REFUSALS: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "an empty list": ([], TABLE, "its list of images has 0, and 1 to 32 are possible"),
    "too many": (["a.png"] * 33, TABLE, "its list of images has 33"),
    "a path that is no list": ("a.png", TABLE, "its images are no list"),
    "an object": ({"a": "a.png"}, TABLE, "its images are no list"),
    "nothing": (None, TABLE, "its images are no list"),
    "no path": (["a.png", None], TABLE, "its image 2 is missing"),
    "a path outside": (["a.png", "../a.png"], TABLE, "its image 2 is outside the table's folder; move the image there"),
    "an image that is not there": (["a.png", "b.png"], TABLE, "its image 2 is not there"),
    "a file that is no image": (["a.png", "table.csv"], TABLE, "its image 2 can't be decoded"),
    "a column that is not there": (["a.png"], ("--images", "fils", *TABLE[2:]), "did you mean 'files'"),
    "both": (["a.png"], (*TABLE, "--image", "file"), "leave out one of them"),
    "boxes": (["a.png"], (*TABLE[:-1], "boxes"), "--images is not possible with --judge boxes"),
    "one question": (["a.png", "a.png"], TABLE, "no image falls into"),
}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_gets_a_sentence_and_leaves_nothing(name: str, kind: str, tmp_path: Path) -> None:
    value, words, sentence = REFUSALS[name]
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(own.encoded(own.picture(1)))
    row = {"files": value, "question": "Which colour?", "colour": "red"}
    table = folder / f"table.{kind}"
    with table.open("w", newline="", encoding="utf-8") as file:
        if kind == "csv":
            cell = value if isinstance(value, str) else "" if value is None else json.dumps(value)
            csv.writer(file).writerows([row, {**row, "files": cell}.values()])
        else:
            file.write(json.dumps(row) + "\n")
    (folder / "table.csv").touch()
    assert sentence in refused(import_(table, tmp_path / "out", *words))
    assert {path.name for path in tmp_path.iterdir()} <= {"in", "out.broken.jsonl"}


@pytest.mark.parametrize("count", [0, 33])
def test_a_question_without_images_or_with_too_many_is_not_read(several: Path, count: int, tmp_path: Path) -> None:
    spec = OWN["own-exact-images"]
    row = rows_of(several, "r1")["test"][0]
    pq.write_table(
        pa.Table.from_pylist([row | {"images": row["images"][:1] * count}], arrow_schemas(spec)["r1"]), tmp_path / "r1"
    )
    with pytest.raises(UserError, match=f"shows {count} images"):
        check_shard(tmp_path / "r1", spec, set())


LISTS = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=4), min_size=1, max_size=20)


@given(LISTS, st.data())
def test_rows_that_share_an_image_a_near_duplicate_or_a_group_are_in_one_split(
    shown: list[list[int]], data: st.DataObject
) -> None:
    groups = data.draw(st.lists(st.integers(0, 9), min_size=len(shown), max_size=len(shown)))
    numbers = data.draw(st.sampled_from([st.just(-1), st.integers(0, 2)]))  # the table has a column of splits, or none
    given_splits = data.draw(st.lists(numbers, min_size=len(shown), max_size=len(shown)))
    flat = [image for images in shown for image in images]

    def keys(values: list[int]) -> Any:
        return np.array([value.to_bytes(1) * 16 for value in values], dtype="S16")

    found = decide(
        Rows(
            np.arange(len(shown)),
            keys([group + 100 for group in groups]),
            np.array(given_splits, dtype=np.int8),
            np.repeat(np.arange(len(shown)), [len(images) for images in shown]),
            keys(flat),
            np.array([image // 2 << 20 for image in flat], dtype=np.uint64),  # two images each are near-duplicates
        ),
        (40, 30, 30),
        0,
    )
    for one, split in enumerate(found.splits):
        for other, other_split in enumerate(found.splits):
            shared = {image // 2 for image in shown[one]} & {image // 2 for image in shown[other]}
            if (shared or groups[one] == groups[other]) and min(split, other_split) >= 0:
                assert split == other_split
            if {*shown[one]} & {*shown[other]} and min(split, other_split) >= 0:
                assert found.firsts[one] == found.firsts[other] <= min(one, other)
    assert found.duplicates == len(flat) - len({*flat})


EXPORTS = ("easyr1", "ms-swift", "verl", "trl", "lmms-eval", "inspect", "verifiers")


@pytest.mark.parametrize("tool", EXPORTS)
def test_every_export_has_all_images(several: Path, tool: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke("datagen.cli", "export", tool, several, "--out", out)
    assert done.returncode == 0, done.stderr
    built = open_dataset(several)
    (two,) = (row for split in ("train", "validation", "test") for row in built.questions(split) if showing(row) == 2)
    text = two["prompt"][1]["content"]
    if tool in ("easyr1", "ms-swift", "verl"):
        tables = [pq.read_table(out / f"{split}.parquet").to_pylist() for split in ("train", "validation")]
        written = {text_of(row): row for rows in tables for row in rows if showing(row) == 2}
        assert len(written) == (0 if two in built.questions("test") else 1)
        for asked, row in written.items():
            assert asked == "<image><image>" + text
            assert [image["bytes"] for image in row["images"]] == [own.contents()[own.TWO + at] for at in (0, 1)]
    elif tool == "lmms-eval":
        messages = function_of(out, f"{UTILS}.doc_to_messages")(two)
        assert [part["type"] for part in messages[1]["content"]] == ["image", "image", "text"]
        assert function_of(out, f"{UTILS}.doc_to_visual")(two) == two["images"]
    elif tool == "verifiers":
        system, user = function_of(next(out.glob("r1vlm_*")), f"{UTILS}.ask")(two)
        assert [part["type"] for part in user["content"]] == ["image_url", "image_url", "text"]
        assert system == two["prompt"][0]["content"]


def showing(row: dict[str, Any]) -> int:
    """How many images a row shows."""
    return len(row["images"])


def text_of(row: dict[str, Any]) -> str:
    """What a trainer is asked of a row."""
    messages = row.get("messages") or row.get("prompt")
    return str(messages[-1]["content"] if messages else row["problem"])


def test_a_question_is_asked_with_all_its_images_and_ablated(several: Path) -> None:
    built = open_dataset(several)
    (rows, index) = next(
        (rows, index)
        for rows in map(built.questions, ("train", "validation", "test"))
        for index in range(len(rows))
        if showing(rows[index]) == 2
    )
    prompt = R1.prompt(rows, index)
    parts = prompt.conversation(lambda image: {"type": "image", "image": image})[1]["content"]
    assert [part["type"] for part in parts] == ["image", "image", "text"]
    upright = [own.picture(own.TWO + at).tobytes() for at in (0, 1)]
    assert [image.tobytes() for image in prompt.images] == upright
    blank, other = ablation_variants(built.spec, {})
    assert [len(image.getcolors() or ()) for image in blank.prompt(rows, index).images] == [1, 1]
    assert other.prompt(rows, index).images[0].tobytes() not in upright


def test_a_server_is_sent_all_images_and_the_page_shows_them(pairs: Path, tmp_path: Path) -> None:
    rows = open_dataset(pairs).questions("test").select(range(12))
    known = {pixels_of(question_images(row)): row["answer"] for row in rows}

    def say(prompt: Any) -> str:
        return f"I look.</think><answer>{known.get(pixels_of(prompt.images), 'none')}</answer>"

    with playing(say) as server:
        words = ("served", "--endpoint", server.address, "--data", pairs, "--controls", "--report", "--limit", "12")
        done = invoke("evaluation.cli", *map(str, words), "--out", tmp_path)
    assert done.returncode == 0, done.stderr[-500:]
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    assert (result["accuracy"], result["controls"]["blank"]["accuracy"]) == (1.0, 0.0)
    shown = sum(map(len, rows["images"]))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count('<div class="ask">') == len(rows) < shown == page.count("<img src=")


def pixels_of(images: list[Any]) -> tuple[bytes, ...]:
    """What tells images from others."""
    return tuple(image.tobytes() for image in images)


def test_a_player_is_shown_all_images(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = open_dataset(pairs).questions("test")
    monkeypatch.setattr("builtins.input", lambda: "red")
    words = ("play", str(pairs), "--count", str(len(rows)), "--out", tmp_path / "seen")
    assert invoke("datagen.cli", *words).returncode == 0
    assert len(list((tmp_path / "seen").iterdir())) == sum(map(len, rows["images"]))


def test_there_is_a_dataset_of_several_images_for_each_judge_but_those_of_places() -> None:
    assert {name for name, spec in OWN.items() if spec.several_images} == {
        f"own-{judge}-images" for judge in JUDGES if judge not in ("boxes", "points")
    }


def test_a_plan_counts_all_images_and_tells_vllm_how_many(pairs: Path, tmp_path: Path) -> None:
    question = largest_question("own-exact-images", ["own-exact-images"], str(pairs))
    assert (question.width, question.height, question.images) == (96, 64, 2)
    assert largest_question("own-exact-images", ["own-exact-images"]).images == 2  # where nothing is known
    words = ("own-exact-images", "--data", str(pairs), "--model", "Qwen/Qwen2.5-VL-3B-Instruct", "--hardware", "4gpu")
    done = invoke("training.cli", *words, "--dry-run", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert """--limit-mm-per-prompt '{"image": 2, "video": 0}'""" in done.stdout.replace("\n", " ")


def test_a_plan_counts_the_largest_image_wherever_it_is(tmp_path: Path) -> None:
    """A server of vLLM takes no prompt that is longer than it was told."""
    count, large, lists = 330, 320, tmp_path / "in.parquet"
    images = [
        own.encoded(own.picture(number, (1800, 1400) if number == large else (96, 64))) for number in range(count)
    ]
    shown = [[image] * (3 if number == large else 1) for number, image in enumerate(images)]
    part = ["validation" if number == 5 else "test" if number == 6 else "train" for number in range(count)]
    cells = {"files": shown, "question": ["Which?"] * count, "colour": ["red"] * count, "part": part}
    pq.write_table(pa.table(cells), lists)
    assert import_(lists, tmp_path / "out", *TABLE, "--split", "part", "--near", "-1").returncode == 0
    question = largest_question("own-exact-images", ["own-exact-images"], str(tmp_path / "out"))
    assert (question.width, question.height, question.images) == (1800, 1400, 3)
    words = ("own-exact-images", "--model", "Qwen/Qwen2.5-VL-3B-Instruct", "--hardware", "multinode", "--dry-run")
    done = invoke("training.cli", *words, "--data", str(tmp_path / "out"), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    script = (tmp_path / "run.slurm").read_text(encoding="utf-8")
    assert '{"image": 3, "video": 0}' in script
    (length,) = [int(word) for option, word in pairwise(script.split()) if option == "--max-model-len"]
    assert length > 3 * 1800 * 1400 // 28**2


@pytest.mark.slow
def test_the_longest_prompt_is_that_of_the_most_images(pairs: Path, random_checkpoint: Path) -> None:
    from trl.data_utils import prepare_multimodal_messages

    from training.rollout.vllm import longest_prompt

    processor, rows = load_processor(random_checkpoint), open_dataset(pairs).questions("test")
    prompts = [prepare_multimodal_messages(row["prompt"], images=row["images"]) for row in rows]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    lengths = [len(processor.apply_chat_template([one], **options)["input_ids"][0]) for one in prompts]
    assert min(lengths) < max(lengths) == longest_prompt(rows, processor)


@pytest.mark.slow
def test_it_is_trained_on_and_evaluated(pairs: Path, tmp_path: Path) -> None:
    words = ("own-exact-images", "--data", pairs, "--steps", "2", "--no-report", "--traces", "24", "--eval-steps", "1")
    done = run("training.cli", *words, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "prompts are computed once a group" in done.stdout
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len([step for step in steps if "reward" in step]) == 2
    words = (tmp_path / "run" / "final", "--max-new-tokens", "4", "--report", "--controls")
    done = run("evaluation.cli", *words, "--out", tmp_path / "eval")
    assert done.returncode == 0, done.stderr
    assert "own-exact-images" in done.stdout
    page = (tmp_path / "eval" / "report.html").read_text(encoding="utf-8")
    assert page.count("<img src=") > 0
