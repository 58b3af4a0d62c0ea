"""Images of your own: what comes out of tables, folders of classes and the Hub, and what is refused."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from datagen.dataset.importing import run as importing
from datagen.dataset.importing.config import ImportConfig
from datagen.dataset.importing.images import BrokenImageError, check_image
from datagen.dataset.importing.splits import Rows, decide, near_pairs
from datagen.dataset.reader import open_dataset
from tests.conftest import MakeOnce
from tests.datagen import own_images as own
from tests.datagen.own_images import import_, rows_of
from tests.hub import Hub, running
from tests.processes import invoke, kill_when, refused, run

BASE = Path(__file__).parents[2] / "training" / "builtin_models" / "base"
Done = subprocess.CompletedProcess[str]
TABLE = ("--image", "file", "--question", "question", "--answer", "colour", "--judge", "exact")
CLASSES = ("--question", "Which colour has the box?", "--answer", "label", "--judge", "exact")


@pytest.fixture(scope="session")
def sources(make_once: MakeOnce) -> Path:
    def fill(folder: Path) -> None:
        own.write_csv(folder / "csv")
        own.write_parquet(folder / "parquet" / "part.parquet")
        own.write_classes(folder / "classes")
        own.write_classes(folder / "splits", splits=True)

    return make_once("own-sources", fill)


@pytest.fixture(scope="session")
def imported(sources: Path, make_once: MakeOnce) -> Path:
    """A dataset of the CSV, with solutions, groups and levels."""

    def fill(folder: Path) -> None:
        words = (*TABLE, "--solution", "why", "--group", "album", "--difficulty", "level")
        done = import_(sources / "csv" / "table.csv", folder / "colours", *words)
        assert done.returncode == 0, done.stderr

    return make_once("own-imported", fill) / "colours"


def check(folder: Path, kind: str) -> None:
    """What every import of the pictures keeps: the faults are found, and nothing is in two splits."""
    broken = folder.with_name(folder.name + ".broken.jsonl")
    (line,) = broken.read_text(encoding="utf-8").splitlines()
    assert "can't be decoded" in json.loads(line)["reason"]
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["imported"]["changed"] == {"rotated": 1}
    assert manifest["imported"]["duplicates"] == 1
    assert not any(manifest["splits"]["shared_between_splits"].values())
    splits = rows_of(folder)
    every = [row for rows in splits.values() for row in rows]
    pixels = {split: {row["pixels"] for row in rows} for split, rows in splits.items()}
    assert len(set().union(*pixels.values())) == sum(map(len, pixels.values())) == own.COUNT - 2
    kept = set(own.contents())
    changed = [row for row in every if row["image"]["bytes"] not in kept]
    assert len(changed) == 1  # the one that was turned
    with Image.open(io.BytesIO(changed[0]["image"]["bytes"])) as image:
        upright = own.picture(own.ROTATED)
        assert image.size == upright.size
        assert np.abs(np.asarray(image.convert("RGB"), dtype=int) - np.asarray(upright, dtype=int)).mean() < 3
    assert invoke("datagen.cli", "verify", str(folder)).returncode == 0
    questions = open_dataset(folder).questions("train")
    assert set(questions["task"]) == {f"own-{kind}"}


def test_a_csv_with_paths(imported: Path) -> None:
    check(imported, "exact")
    splits = rows_of(imported, "r1")
    groups = {split: {row["group"] for row in rows} for split, rows in splits.items()}
    assert len(set().union(*groups.values())) == sum(map(len, groups.values())) <= 40
    rows = {row["id"]: row for found in splits.values() for row in found}
    assert len(rows) == own.COUNT - 1
    row = rows["own-exact-00000005-own-exact"]
    assert (row["answer"], row["difficulty"], row["group"]) == ("green", 2.0, "album 1")
    assert "<think>I look at the box. Its colour is clear.</think>" in row["solution"]
    copy = rows[f"own-exact-{own.COPY:08d}-own-exact"]
    assert copy["image_id"] == "own-exact-00000003"  # of one image, though of two albums


def test_a_parquet_file_with_images_inside_and_boxes(sources: Path, tmp_path: Path) -> None:
    words = ("--question", "question", "--answer", "place", "--judge", "boxes")
    done = import_(sources / "parquet", tmp_path / "out", *words)
    assert (done.returncode, done.stderr) == (0, "")
    check(tmp_path / "out", "boxes")
    row = rows_of(tmp_path / "out", "r1")["train"][0]
    assert json.loads(row["answer"])[0]["label"] == "box"
    sheet = tmp_path / "sheet.png"
    assert invoke("datagen.cli", "preview", str(tmp_path / "out"), "--out", sheet).returncode == 0
    with Image.open(sheet) as picture:
        red, green, blue = picture.convert("RGB").getpixel((20, 20))  # the box of the first picture, as JPEG has it
        assert min(red, 255 - green, 255 - blue) > 240


def test_a_folder_of_classes(sources: Path, tmp_path: Path) -> None:
    assert import_(sources / "classes", tmp_path / "out", *CLASSES).returncode == 0
    check(tmp_path / "out", "exact")


def test_an_import_into_its_own_folder(tmp_path: Path) -> None:
    """What it writes is no image and no table of the next one."""
    own.write_classes(tmp_path / "classes")
    inside = refused(import_(tmp_path / "classes", tmp_path / "classes" / "out", *CLASSES))
    assert "in the folder of images" in inside
    own.write_csv(tmp_path / "in")
    for name in ("one", "two"):
        assert import_(tmp_path / "in", tmp_path / "in" / name, *TABLE).returncode == 0
        assert (tmp_path / "in" / f"{name}.broken.jsonl").is_file()


def test_what_is_in_two_given_splits_is_refused_or_left_out(sources: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "out", (*CLASSES, "--split", "split")
    sentence = refused(import_(sources / "splits", out, *words))
    assert "1 rows show what a row of another split shows" in sentence
    assert "--drop-duplicates" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["out.broken.jsonl"]
    assert import_(sources / "splits", out, *words, "--drop-duplicates").returncode == 0
    test = rows_of(out)["test"]
    assert len(test) == 41  # all that were given, the copy too
    assert len({row["pixels"] for found in rows_of(out).values() for row in found}) == own.COUNT - 2


def test_the_commands_of_the_documentation_run(sources: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "own-images.md").read_text(encoding="utf-8")
    (tmp_path / "photos").symlink_to(sources / "csv")
    (tmp_path / "classes").symlink_to(sources / "classes")
    fences = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    commands = [shlex.split(line)[1:] for fence in fences for line in fence.splitlines() if line[:10] == "r1vlm-data"]
    assert [words[0] for words in commands] == ["import", "preview", "verify", "import"]
    for words in commands:
        done = invoke("datagen.cli", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running() as hub:
        yield hub


@pytest.mark.slow
def test_a_dataset_of_the_hub(hub: Hub, sources: Path, tmp_path: Path) -> None:
    content = (sources / "parquet" / "part.parquet").read_bytes()
    hub.put(
        "datasets/ada/boxes", {"data/train-00000-of-00001.parquet": content, "README.md": b"---\nlicense: mit\n---\n"}
    )
    here = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
    env = os.environ | here | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    words = ("--question", "question", "--answer", "colour", "--judge", "exact", "--out", tmp_path / "out")
    done = run("datagen.cli", "import", "ada/boxes", *words, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    check(tmp_path / "out", "exact")
    done = run("datagen.cli", "import", "ada/nothing", *words[:-1], tmp_path / "none", env=env)
    assert "ada/nothing" in refused(done)


@pytest.mark.slow
def test_it_is_trained_on_and_evaluated(imported: Path, tmp_path: Path) -> None:
    words = ("own-exact", "--data", imported, "--steps", "2", "--no-report", "--traces", "8", "--out", tmp_path / "run")
    assert run("training.cli", *words).returncode == 0
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len([step for step in steps if "reward" in step]) == 2
    words = (tmp_path / "run" / "final", "--limit", "2", "--max-new-tokens", "4", "--out", tmp_path / "eval")
    done = run("evaluation.cli", *words)
    assert done.returncode == 0, done.stderr
    assert "own-exact" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classes", "parquet"])
def test_without_solutions_grpo_alone_is_trained(kind: str, sources: Path, tmp_path: Path) -> None:
    words = CLASSES if kind == "classes" else ("--question", "question", "--answer", "colour", "--judge", "exact")
    assert import_(sources / kind, tmp_path / "data", *words).returncode == 0
    train = ("own-exact", "--data", tmp_path / "data", "--model", BASE, "--steps", "2", "--no-report")
    done = run("training.cli", *train, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len([step for step in steps if "reward" in step]) == 2


@pytest.mark.slow
def test_without_solutions_a_cold_start_is_refused(sources: Path, tmp_path: Path) -> None:
    imported = import_(sources / "classes", tmp_path / "out", *CLASSES)
    assert imported.returncode == 0
    assert "without --solution not on a built-in model" in imported.stdout
    words = ("own-exact", "--data", tmp_path / "out", "--cold-start", "--out", tmp_path / "run")
    assert "--solution" in refused(run("training.cli", *words))
    assert not (tmp_path / "run").exists()


def table(folder: Path, text: str, name: str = "table.csv") -> Path:
    """A table beside one picture, `a.png`."""
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(own.encoded(own.picture(1)))
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


GOOD = "file,question,colour\na.png,Which colour?,red\n"
ONE = ("--image", "file", "--question", "question", "--answer", "colour", "--judge", "exact")
REFUSALS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "a column that is not there": (GOOD, (*ONE[:5], "color", *ONE[6:]), "--answer color: there is no such column"),
    "a question that is no column": (GOOD, (*ONE[:3], "questoin", *ONE[4:]), "did you mean 'question'"),
    "an unknown judge": (GOOD, (*ONE[:7], "exakt"), "did you mean 'exact'"),
    "a judge that can't read": (GOOD, (*ONE[:7], "integer"), "the judge integer can't read its answer"),
    "a path outside": (GOOD.replace("a.png", "../a.png"), ONE, "outside the table's folder"),
    "an absolute path outside": (GOOD.replace("a.png", "/etc/hostname"), ONE, "outside the table's folder"),
    "a missing image": (GOOD.replace("a.png", "b.png"), ONE, "its image is not there"),
    "a ragged row": (GOOD + "a.png,Which?\n", ONE, "line 3, has 2 values, and there are 3 columns"),
    "no rows": ("file,question,colour\n", ONE, "has no rows"),
    "an empty file": ("", ONE, "there is no such column"),
    "a column twice": (GOOD.replace("question,", "file,"), ONE, "names a column twice"),
    "a quote that is not closed": (GOOD + '"a.png,Which?,red\n', ONE, "can't be read"),
    "one image": (GOOD, ONE, "no image falls into"),
    "an empty answer": (GOOD.replace("red", ""), ONE, "it has no answer"),
    "a wrong split": (GOOD, (*ONE, "--split", "colour"), "its split is none of train"),
    "a wrong difficulty": (GOOD, (*ONE, "--difficulty", "colour"), "its difficulty is no number"),
    "a wrong tolerance": (GOOD, (*ONE, "--tolerance", "x"), "--tolerance x is neither"),
    "a tolerance that no answer has": (GOOD, (*ONE[:7], "integer", "--tolerance", "1"), "--judge number and points"),
    "wrong shares": (GOOD, (*ONE, "--splits", "90/10/10"), "add up to 100"),
    "a box outside the image": (
        GOOD.replace(",red", ',"[0, 0, 500, 20]"'),
        (*ONE[:7], "boxes"),
        "outside the image",
    ),
    "tags in the reasoning": (GOOD.replace("Which colour?", "<think>"), (*ONE, "--solution", "question"), "full marks"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_gets_a_sentence_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    text, words, sentence = REFUSALS[name]
    source = table(tmp_path / "in", text)
    assert sentence in refused(import_(source, tmp_path / "out", *words))
    assert {path.name for path in tmp_path.iterdir()} <= {"in", "out.broken.jsonl"}


def test_sources_and_folders_that_can_not_be_used(tmp_path: Path) -> None:
    source = table(tmp_path / "in", GOOD)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert "already holds something" in refused(import_(source, tmp_path / "out", *ONE))
    assert "there is no" in refused(import_(tmp_path / "nowhere", tmp_path / "new", *ONE))
    (tmp_path / "in" / "other.csv").write_text(GOOD)
    assert "holds several tables" in refused(import_(tmp_path / "in", tmp_path / "new", *ONE))
    assert "is no table" in refused(import_(tmp_path / "in" / "a.png", tmp_path / "new", *ONE))
    (tmp_path / "in" / "bad.jsonl").write_text('{"file": "a.png"}\n[1]\n')
    assert "line 2, can't be read" in refused(import_(tmp_path / "in" / "bad.jsonl", tmp_path / "new", *ONE))
    for cell in ('"colour": "\\ud83d"', '"colour": "red", "all": ["red", "\\ud83d"]'):
        (tmp_path / "in" / "half.jsonl").write_text(f'{{"file": "a.png", "question": "Which?", {cell}}}\n')
        words = (*ONE, "--choices", "all") if "all" in cell else ONE
        halves = refused(import_(tmp_path / "in" / "half.jsonl", tmp_path / "new", *words, "--max-broken", "0.1"))
        assert "half of a surrogate pair" in halves
    (tmp_path / "new.broken.jsonl").unlink()
    (tmp_path / "in" / "latin.csv").write_bytes(GOOD.encode() + b"a.png,\xe9,red\n")
    assert "line 3, is not UTF-8" in refused(import_(tmp_path / "in" / "latin.csv", tmp_path / "new", *ONE))
    (tmp_path / "in" / "bad.parquet").write_bytes(b"PAR1")
    assert "is no Parquet file" in refused(import_(tmp_path / "in" / "bad.parquet", tmp_path / "new", *ONE))
    twice = pa.table([["a.png"], ["red"], ["blue"]], names=["file", "colour", "colour"])
    pq.write_table(twice, tmp_path / "in" / "twice.parquet")
    assert "names a column twice" in refused(import_(tmp_path / "in" / "twice.parquet", tmp_path / "new", *ONE))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_an_import_that_was_killed_goes_on_with_the_same_bytes(sources: Path, tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    own.write_parquet(source, 1200)
    words = ("--question", "question", "--answer", "colour", "--judge", "exact", "--workers", "1")
    once, killed = tmp_path / "once", tmp_path / "killed"
    assert run("datagen.cli", "import", source, *words, "--out", once).returncode == 0
    for progress in ("checks/*.parquet", "r1/*.parquet"):
        kill_when(
            lambda progress=progress: any((tmp_path / "killed.partial").glob(progress)),  # type: ignore[misc]
            *("datagen.cli", "import", source, *words, "--out", killed),
        )
        assert not killed.exists()
    changed = run("datagen.cli", "import", source, *words, "--near", "5", "--out", killed)
    assert "unfinished import of something else" in refused(changed)
    assert run("datagen.cli", "import", source, *words, "--out", killed).returncode == 0
    assert not (tmp_path / "killed.partial").exists()
    files = {str(path.relative_to(once)): path.read_bytes() for path in once.rglob("*") if path.is_file()}
    assert {str(path.relative_to(killed)): path.read_bytes() for path in killed.rglob("*") if path.is_file()} == files


@pytest.mark.parametrize("emptied", ["checks/*.parquet", "r1/*.parquet"])
def test_a_file_that_a_power_cut_emptied_is_made_again(
    emptied: str, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    settings = {"judge": "exact", "answer": "colour", "question": "question"}
    config = ImportConfig(source=str(sources / "parquet"), **settings)  # type: ignore[arg-type]
    monkeypatch.setattr(importing, "write_description", cut)
    with pytest.raises(KeyboardInterrupt):
        importing.import_images(config, tmp_path / "out", workers=1)
    monkeypatch.undo()
    min((tmp_path / "out.partial").glob(emptied)).write_bytes(b"")
    done = importing.import_images(config, tmp_path / "out", workers=1)
    assert sum(done.counts.values()) == own.COUNT - 1
    assert invoke("datagen.cli", "verify", str(tmp_path / "out")).returncode == 0


def jpeg(mode: str) -> bytes:
    return own.encoded(own.picture(5).convert(mode), "JPEG")


def animated() -> bytes:
    frames = [own.picture(i) for i in (5, 6)]
    return own.encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def grey_of_16_bits() -> bytes:
    ramp = np.linspace(0, 65535, 64 * 96).astype(np.uint16).reshape(64, 96)
    return own.encoded(Image.fromarray(ramp))


def with_hole() -> bytes:
    image = own.picture(5).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 10, 10))
    return own.encoded(image)


@pytest.mark.parametrize(
    ("content", "changes"),
    [
        (own.encoded(own.picture(5)), ()),
        (jpeg("RGB"), ()),
        (own.encoded(own.picture(5), "WEBP"), ()),
        (own.encoded(own.picture(5).convert("P")), ()),
        (own.encoded(own.picture(5).convert("RGBA")), ()),
        (own.rotated(own.picture(5)), ("rotated",)),
        (jpeg("CMYK"), ("CMYK",)),
        (animated(), ("animated", "GIF")),
        (grey_of_16_bits(), ("16-bit",)),
        (with_hole(), ("transparent",)),
        (own.encoded(own.picture(5), "BMP"), ("BMP",)),
    ],
)
def test_an_image_keeps_its_bytes_or_is_changed_and_counted(content: bytes, changes: tuple[str, ...]) -> None:
    checked = check_image(content)
    assert (checked.changes, checked.content == content) == (changes, not changes)
    again = check_image(checked.content)  # what is kept is kept as it is
    assert (again.changes, again.pixels, again.size) == ((), checked.pixels, (96, 64))
    with Image.open(io.BytesIO(checked.content)) as image:
        if changes == ("transparent",):
            assert image.getpixel((0, 0)) == (255, 255, 255)
        if changes == ("16-bit",):
            assert (np.asarray(image)[0, 0, 0], np.asarray(image)[-1, -1, 0]) == (0, 255)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "can't be decoded"),
        (b"<svg/>", "can't be decoded"),
        (own.encoded(own.picture(5))[:-30], "can't be decoded"),
        (own.encoded(Image.new("1", (1, 300))), "times as long as wide"),
        (own.encoded(Image.new("1", (5000, 5000))), "more than 16777216 pixels"),
        (own.encoded(Image.new("F", (9, 9)), "TIFF"), "32 bits"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "can't be decoded"),
    ],
)
def test_an_image_that_can_not_be_used_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(BrokenImageError, match=reason):
        check_image(content)


def rows(pixels: list[int], groups: list[int], given: list[int], near: list[int] | None = None) -> Rows:
    def keys(values: list[int]) -> np.ndarray[Any, Any]:
        return np.array([bytes([value]) * 16 for value in values], dtype="S16")

    return Rows(
        np.arange(len(pixels)) * 10,
        keys(groups),
        np.array(given, dtype=np.int8),
        np.arange(len(pixels)),
        keys(pixels),
        np.array(near if near is not None else [value << 40 for value in pixels], dtype=np.uint64),
    )


def test_rows_stay_together_through_images_and_groups_in_turn() -> None:
    # 0 and 1 show one image, 1 and 2 are of one group, 2 and 3 are near: one part; the others are alone
    found = decide(
        rows([1, 1, 2, 3, 250, 240], [1, 9, 9, 3, 250, 240], [-1] * 6, [0, 0, 0xF9, 0xF8, 7 << 40, 7 << 50]),
        (80, 10, 10),
        1,
    )
    assert found.splits.tolist() == [0, 0, 0, 0, 2, 2]
    assert (found.duplicates, found.near_duplicates, found.across) == (1, 2, 0)


def test_of_given_splits_the_last_keeps_what_belongs_together() -> None:
    found = decide(rows([1, 1, 2, 2, 3, 220], [1, 1, 2, 2, 3, 220], [0, 2, 1, 1, 0, 0]), (80, 10, 10), -1)
    assert found.splits.tolist() == [-1, 2, 1, 1, 0, 0]
    assert (found.across, found.example) == (1, (0, 10))
    without = decide(rows([1, 2, 220], [1, 2, 220], [0, 2, 0]), (80, 10, 10), -1)
    assert without.splits.tolist() == [0, 2, 1]  # validation is taken from train


@given(
    st.sets(st.integers(0, 2**64 - 1) | st.integers(0, 2**12) | st.integers(0, 63).map(lambda bit: 1 << bit)),
    st.integers(-1, 16),
)
def test_every_pair_of_near_hashes_is_found(numbers: set[int], most: int) -> None:
    hashes = np.array(sorted(numbers), dtype=np.uint64)
    first, second = near_pairs(hashes, most)
    pairs = combinations(enumerate(hashes.tolist()), 2)
    every = [(i, j) for (i, a), (j, b) in pairs if most > 0 and (a ^ b).bit_count() <= most]
    assert sorted(zip(first.tolist(), second.tolist(), strict=True)) == every


def test_choices_are_listed_and_a_large_row_group_is_cut(tmp_path: Path) -> None:
    images = [own.encoded(own.picture(number)) for number in range(520)]
    columns = {
        "image": images,
        "question": ["Which colour has it?"] * 520,
        "answer": [number % 4 for number in range(520)],
        "options": [list(own.COLOURS)] * 520,
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet", row_group_size=10_000)
    words = ("--question", "question", "--answer", "answer", "--choices", "options", "--judge", "choice")
    assert import_(tmp_path / "in.parquet", tmp_path / "out", *words).returncode == 0
    found = rows_of(tmp_path / "out", "r1")
    assert sum(map(len, found.values())) == 520
    row = next(row for row in found["train"] if row["image_id"] == "own-choice-00000002")
    assert row["answer"] == "C"
    assert "\nA. red\nB. green\nC. blue\nD. black\n" in row["prompt"][1]["content"]
    assert len(list((tmp_path / "out" / "r1").glob("train-*-of-00002.parquet"))) == 2


def test_numbers_of_a_parquet_file_are_read_as_somebody_writes_them(tmp_path: Path) -> None:
    """32 bits of 0.1 are 0.1, whole numbers in a column with gaps have no point, and what is no number is no answer."""
    count = 60
    cells = {
        "short": pa.array([number / 10 for number in range(count)], pa.float32()),
        "pair": pa.array([[number / 10, 0.1] for number in range(count)], pa.list_(pa.float16())),
        "gaps": pa.array([float("nan"), None, *map(float, range(2, count))], from_pandas=False),
        "bytes": pa.array([b"red"] * count),
        "options": pa.array([[number / 10, 3.0, 9.5] for number in range(count)], pa.list_(pa.float32())),
    }
    images = [own.encoded(own.picture(number)) for number in range(count)]
    pq.write_table(pa.table({"image": images, **cells}), tmp_path / "in.parquet")

    def answers(column: str, judge: str, *words: str) -> list[str]:
        asked = ("--question", "What is it here?", "--answer", column, "--judge", judge, "--max-broken", "0.1", *words)
        assert import_(tmp_path / "in.parquet", tmp_path / judge, *asked, "--near", "-1").returncode == 0
        rows = [row for found in rows_of(tmp_path / judge, "r1").values() for row in found]
        return [row["answer"] for row in sorted(rows, key=lambda row: str(row["id"]))]

    assert answers("short", "number") == ["0", *(f"{number / 10:g}" for number in range(1, count))]
    assert answers("pair", "list")[7] == "[0.7, 0.1]"
    assert answers("gaps", "exact") == [str(number) for number in range(2, count)]
    assert set(answers("short", "choice", "--choices", "options")) == {"A"}
    broken = refused(
        import_(tmp_path / "in.parquet", tmp_path / "new", *CLASSES[:2], "--answer", "bytes", *CLASSES[4:])
    )
    assert "its answer is bytes" in broken
