"""A dataset that is not built in: a package that is installed, or a file. Wherever its name is used, it works."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datagen import registry
from datagen.common.errors import UserError
from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.executors import Executor, ray_executor
from datagen.dataset.reader import open_dataset
from datagen.hub.cards import model_card
from datagen.registry.code import _installed
from datagen.task import reward_hash
from tests.conftest import MakeOnce
from tests.datagen.test_scale import cluster  # noqa: F401 - a fixture
from tests.outside import install, registry_restored
from tests.processes import invoke, kill_when, refused, run
from tests.test_hub import data, env, hub  # noqa: F401 - fixtures
from tests.training.conftest import TINY
from training.config import RunConfig

KINDS = ["file", "package"]


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    with registry_restored():
        yield


@pytest.fixture(scope="session")
def package(make_once: MakeOnce) -> Path:
    """What `new-task fruit` writes, found as installed where it stands on the path."""

    def fill(folder: Path) -> None:
        done = invoke("datagen.cli", "new-task", "fruit", "--out", folder / "fruit")
        assert done.returncode == 0, done.stderr
        install(folder / "fruit")

    return make_once("outside-package", fill) / "fruit"


@pytest.fixture(params=KINDS)
def flags(request: pytest.FixtureRequest, package: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a command needs to know the dataset: the flag of its file, or nothing where its package is installed."""
    if request.param == "file":
        return ["--task-file", str(package / "r1vlm_fruit.py")]
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    return []


@pytest.fixture(scope="session")
def fruit(make_once: MakeOnce, package: Path) -> Path:
    """The dataset of the file, 40 images, built by two workers."""

    def fill(folder: Path) -> None:
        with registry_restored():
            words = ["build", f"{package / 'r1vlm_fruit.py'}:FRUIT", "--size", "40", "--workers", "2"]
            done = invoke("datagen.cli", *words, "--out", folder / "fruit")
        assert done.returncode == 0, done.stderr

    return make_once("outside-data", fill) / "fruit"


SPEC = "import dataclasses\nfrom datagen.tasks.digits import DIGITS, SUM\n"
MINE = SPEC + "TASK = dataclasses.replace(SUM, name='mine-sum')\n"
MINE += "MINE = dataclasses.replace(DIGITS, name='mine', tasks=(TASK,))\n"
Installed = Callable[..., Path]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Installs a package with one module and one entry point, and gives its folder."""

    def write(package: str, source: str, name: str = "mine", value: str = "MINE") -> Path:
        folder, module = tmp_path / package, f"r1vlm_{package}"
        folder.mkdir()
        (folder / f"{module}.py").write_text(source)
        points = f'[project.entry-points."r1vlm.datasets"]\n{name} = "{module}:{value}"\n'
        (folder / "pyproject.toml").write_text(f'[project]\nname = "{package}"\n{points}')
        install(folder)
        monkeypatch.syspath_prepend(folder)
        return folder

    return write


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


@pytest.mark.slow
def test_a_new_package_passes_its_tests_before_it_is_installed(package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "new", ignore=shutil.ignore_patterns("*.dist-info", "__pycache__"))
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "pyproject.toml",
        "r1vlm_fruit.py",
        "test_r1vlm_fruit.py",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path / "new", capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout


def test_it_is_built_listed_proven_and_shown(flags: list[str], fruit: Path, tmp_path: Path) -> None:
    listed = succeeded(invoke("datagen.cli", "tasks", *flags))
    owner = "file" if flags else "package"
    assert f"which is the largest (of the {owner} " in listed
    assert "(built in)" in listed
    words = ["build", "fruit", *flags, "--size", "40", "--workers", "2", "--digits", "2..3"]
    succeeded(invoke("datagen.cli", *words, "--out", "fruit", cwd=tmp_path))
    manifest = json.loads((tmp_path / "fruit" / "manifest.json").read_text())
    assert manifest["files"] == json.loads((fruit / "manifest.json").read_text())["files"]
    assert manifest["code"]["file"] == "r1vlm_fruit.py"
    assert manifest["code"].get("package") == (None if flags else "r1vlm-fruit")
    assert manifest["code"]["sha256"] == registry.CODE["fruit"].sha256
    card = (tmp_path / "fruit" / "README.md").read_text()
    assert manifest["code"]["sha256"] in card
    assert ("r1vlm-train fruit --task-file r1vlm_fruit.py" in card) == bool(flags)
    assert ("of the package `r1vlm-fruit` 0.1.0" in card) == (not flags)
    assert "40 of 40 images drawn again" in succeeded(
        invoke("datagen.cli", "verify", "fruit", "--all", *flags, cwd=tmp_path)
    )
    assert "No attack earned more" in succeeded(invoke("datagen.cli", "audit", "fruit-largest", *flags))
    succeeded(invoke("datagen.cli", "preview", "fruit", "--count", "2", *flags, cwd=tmp_path))
    succeeded(invoke("datagen.cli", "card", "fruit", *flags, cwd=tmp_path))
    assert (tmp_path / "fruit" / "README.md").read_text() == card


@pytest.mark.parametrize(
    ("tool", "judge"), [("lmms-eval", "process_results(row, [said])"), ("verl", "compute_score(said, json.dumps(row))")]
)
def test_an_exported_task_is_judged_in_a_process_that_was_told_nothing(
    tool: str, judge: str, flags: list[str], fruit: Path, tmp_path: Path
) -> None:
    succeeded(invoke("datagen.cli", "export", tool, fruit, "--out", tmp_path, *flags))
    assert (tmp_path / "r1vlm_task_fruit.py").exists() == bool(flags)
    row = open_dataset(fruit).questions("test").remove_columns("image")[0]
    code = "import json, r1vlm_utils as u, sys; row = json.loads(sys.argv[1]); "
    code += f"print(*[u.{judge}['correctness'] for said in (row['solution'].partition('<think>')[2], 'x')])"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(row)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "1.0 0.0\n", done.stderr


def test_a_package_for_verifiers_needs_the_package_of_its_dataset_or_has_its_file(
    flags: list[str], fruit: Path, tmp_path: Path
) -> None:
    succeeded(invoke("datagen.cli", "export", "verifiers", fruit, "--out", tmp_path, *flags))
    module = tmp_path / "r1vlm_fruit_verifiers"
    assert (module / "r1vlm_task_fruit.py").exists() == bool(flags)
    assert ('"r1vlm-fruit==0.1.0"' in (tmp_path / "pyproject.toml").read_text()) == (not flags)
    code = "import r1vlm_utils as u, sys; rows = [row for _, row in u.rows(sys.argv[1], 'test', 'fruit')]; "
    code += "print({name for row in rows for name, value in u.judge([row['solution']], row).items() if value == 1})"
    path = os.pathsep.join([str(module), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-c", code, fruit]
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert set(ast.literal_eval(done.stdout)) == {"format", "correctness"}, done.stderr


@pytest.fixture
def ray(package: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Executor:
    """Draws on a cluster of two nodes, on which the package is installed."""
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    return ray_executor(str(request.getfixturevalue("cluster")[0].address))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, of sockets and subprocesses that it leaves to the end
def test_it_is_drawn_on_the_nodes_of_ray(
    ray: Executor, installed: Installed, fruit: Path, package: Path, tmp_path: Path
) -> None:
    build(DatasetConfig(dataset="fruit", size=40), tmp_path / "fruit", executor=ray)
    assert open_dataset(tmp_path / "fruit").fingerprint == open_dataset(fruit).fingerprint
    file = tmp_path / "berry.py"
    file.write_text((package / "r1vlm_fruit.py").read_text().replace("fruit", "berry"))
    config = DatasetConfig(dataset=f"{file}:FRUIT", size=40)
    file.unlink()  # no node finds it: it travels
    build(config, tmp_path / "berry", executor=ray)
    assert len(open_dataset(tmp_path / "berry").questions("test")) == 4
    installed("pear", MINE)
    with pytest.raises(UserError, match=r"the package pear 0\.1\.0 is not installed here, or is another"):
        build(DatasetConfig(dataset="mine", size=40), tmp_path / "mine", executor=ray)


@pytest.fixture
def call(request: pytest.FixtureRequest) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Calls `r1vlm-data` with a Hub of its own; see tests/test_hub.py."""
    found: Callable[..., subprocess.CompletedProcess[str]] = request.getfixturevalue("data")
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
def test_it_is_published_and_read_back_where_its_code_is(
    flags: list[str], package: Path, call: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    published = call("build", "fruit", *flags, "--size", "40", "--out", tmp_path / "built", "--push")
    assert "datasets/ada/r1vlm-fruit: published" in succeeded(published)
    repos = request.getfixturevalue("hub").repos
    assert not [name for name in repos["datasets/ada/r1vlm-fruit"].main if name.endswith(".py")]
    assert "all is as claimed" in succeeded(call("verify", "ada/r1vlm-fruit", *flags))
    owner = "that file with --task-file" if flags else "install that package"
    with without_code(package):
        assert owner in refused(call("preview", "ada/r1vlm-fruit", "--out", tmp_path / "sheet.png"))


@contextlib.contextmanager
def without_code(package: Path) -> Iterator[None]:
    """As a new process where the package is not installed."""
    path = [one for one in sys.path if one != str(package)]
    with registry_restored(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", path)
        for table in (registry.DATASETS, registry.CODE):
            table.pop("fruit", None)  # type: ignore[attr-defined]
        registry.TASKS.pop("fruit-largest", None)
        yield


@pytest.mark.slow
def test_a_killed_run_goes_on_is_scored_and_says_what_it_was_trained_on(
    flags: list[str], fruit: Path, package: Path, random_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ["fruit", *flags, "--data", fruit, "--model", random_checkpoint, "--out", out, "--steps", "3", *TINY]
    words += ["--set", "save_steps=1", "--eval-steps", "2"]
    kill_when((out / "checkpoint-1").is_dir, "training.cli", *words)
    done = run("training.cli", *words, "--resume")
    assert f"report: {out}/report/report.html" in succeeded(done)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "reward" in row] == [1, 2, 3]
    assert [row["step"] for row in rows if "held_out/reward" in row] == [2, 3]
    record = json.loads((out / "final" / "r1vlm.json").read_text())
    assert record["code"] == json.loads((fruit / "manifest.json").read_text())["code"] | (
        {} if flags else {"package": "r1vlm-fruit", "version": "0.1.0"}
    )
    assert record["code"]["sha256"] in (out / "final" / "README.md").read_text()
    score = [out / "final", "--limit", "2", "--max-new-tokens", "16", "--out", tmp_path / "eval"]
    assert "fruit-largest" in succeeded(invoke("evaluation.cli", *score, *flags))
    with without_code(package):
        assert "whose code is not here" in refused(invoke("evaluation.cli", *score))
        assert "whose code is not here" in refused(invoke("training.cli", *words[:1], *words[1 + len(flags) :]))


@pytest.mark.parametrize(
    ("package", "says"),
    [
        ({}, "`my-task.py`, SHA-256 `000"),
        ({"package": "mine", "version": "1!2.0"}, "`my-task.py` of the package `mine` 1!2.0, SHA-256 `000"),
    ],
)
def test_the_card_of_a_checkpoint_names_the_code(package: dict[str, str], says: str) -> None:
    record = {
        "stage": "grpo",
        "tasks": ["mine-sum"],
        "step": 3,
        "shown": "3 steps",
        "dataset_fingerprint": "f",
        "seed": 0,
    }
    record |= {"reward_hash": {}, "versions": {}, "settings": {}}
    assert says in model_card(record | {"code": {"file": "my-task.py", "sha256": "0" * 64, **package}})
    assert "code of the dataset" not in model_card(record)


@pytest.mark.slow
def test_two_processes_train_on_it(flags: list[str], fruit: Path, random_checkpoint: Path, tmp_path: Path) -> None:
    words = ["fruit-largest", *flags, "--data", fruit, "--model", random_checkpoint, "--out", tmp_path / "run"]
    words += ["--steps", "1", *TINY, "--set", "per_device_train_batch_size=4", "--hardware", "cpu", "--no-report"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "training.cli"]
    done = subprocess.run(
        [sys.executable, *torchrun, *map(str, words)], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rewards = [
        json.loads(line)["rewards"] for line in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()
    ]
    assert [set(one) for one in rewards] == [{"format", "correctness"}] * 8


def test_what_is_launched_is_told_the_file(package: Path) -> None:
    file = package / "r1vlm_fruit.py"
    assert RunConfig(task="fruit", task_file=file).as_words() == ["fruit", "--task-file", str(file)]
    planned = succeeded(invoke("training.cli", f"{file}:FRUIT", "--hardware", "4gpu", "--model", "small", "--dry-run"))
    assert f"-m training.cli fruit --model small --task-file {file} " in " ".join(planned.replace("\\", " ").split())


def test_without_its_code_one_sentence_says_what_is_needed_and_nothing_is_run(
    fruit: Path, tmp_path: Path, random_checkpoint: Path
) -> None:
    folder = tmp_path / "theirs"
    shutil.copytree(fruit, folder)
    for place in (folder, tmp_path):
        (place / "r1vlm_fruit.py").write_text("raise SystemExit('it was run')")
    sentence = (
        f"{folder} holds the dataset 'fruit', whose code is not here: its manifest names r1vlm_fruit.py (SHA-256 "
    )
    commands: list[tuple[str, list[str | Path]]] = [
        *(("datagen.cli", [name, folder]) for name in ("verify", "preview", "card", "push")),
        ("datagen.cli", ["export", "lmms-eval", folder]),
        ("training.cli", ["fruit", "--data", folder, "--model", random_checkpoint]),
        ("evaluation.cli", [random_checkpoint, "--data", folder]),
    ]
    for module, words in commands:
        assert sentence in refused(invoke(module, *words, cwd=tmp_path)), words
    manifest = folder / "manifest.json"
    packaged = json.loads(manifest.read_text())
    packaged["code"] |= {"package": "r1vlm-fruit", "version": "0.1.0"}
    manifest.write_text(json.dumps(packaged))
    said = refused(invoke("datagen.cli", "verify", folder))
    assert "of the package r1vlm-fruit 0.1.0" in said
    assert "install that package if you trust it" in said
    packaged["recipe"]["dataset"] = "r1vlm_fruit.py"
    manifest.write_text(json.dumps(packaged))
    for module, words in commands[::3]:
        assert "holds the dataset 'r1vlm_fruit.py', whose code is not here" in refused(
            invoke(module, *words, cwd=tmp_path)
        )


def test_an_edited_file_does_not_pass_for_the_one_that_drew(package: Path, fruit: Path, tmp_path: Path) -> None:
    file = tmp_path / "edited.py"
    source = (package / "r1vlm_fruit.py").read_text()
    file.write_text(source.replace("(2, 3)", "(1, 3)"))
    shutil.copytree(fruit, tmp_path / "fruit")
    words = ["build", "fruit", "--task-file", file, "--size", "40", "--digits", "2..3", "--out", tmp_path / "fruit"]
    assert "was drawn by other code (the file" in refused(invoke("datagen.cli", *words))
    file.write_text(source + "\n# a remark\n")
    done = invoke("datagen.cli", "verify", tmp_path / "fruit", "--task-file", file)  # it draws the same
    assert "all is as claimed" in succeeded(done)
    file.write_text(source.replace("colorize(rng, composite(", "colorize(rng, 255 - composite("))
    said = refused(invoke("datagen.cli", "verify", tmp_path / "fruit", "--task-file", file))
    assert "other versions may draw otherwise: the file" in said


FILES = {
    "it raises": ("x = 1\ny = x / 0\n", "can't be loaded: mine.py, line 2: ZeroDivisionError: division by zero"),
    "it exits": ("import sys\nsys.exit(3)\n", "can't be loaded: mine.py, line 2: SystemExit: 3"),
    "no Python": ("name,value\n1,,2\n", "can't be loaded: line 2: invalid syntax"),
    "needs something": (
        "import r1vlm_no_such\n",
        "line 1: ModuleNotFoundError: No module named 'r1vlm_no_such': install it",
    ),
    "no dataset": (SPEC, "defines no dataset: give it a variable that is a datagen.task.DatasetSpec"),
    "several": (MINE + "OTHER = dataclasses.replace(MINE, name='o', tasks=(SUM,))\n", "'sum' is the name of a dataset"),
    "two": (
        MINE + "OTHER = dataclasses.replace(MINE, name='o', tasks=(dataclasses.replace(SUM, name='p'),))\n",
        "mine.py has several datasets: name one, mine.py:MINE or mine.py:OTHER",
    ),
    "one name twice": (MINE + "OTHER = dataclasses.replace(MINE, version='2')\n", "MINE in the file"),
    "a name that is built in": (
        MINE.replace("'mine'", "'words'"),
        "'words' is the name of a dataset or a task of r1vlm and of",
    ),
    "a task that is built in": (
        MINE.replace("mine-sum", "count"),
        "'count' is the name of a dataset or a task of r1vlm and of",
    ),
    "a name that can't be": (MINE.replace("'mine'", "'../mine'"), "has the name '../mine': take small letters"),
}


JUDGED = MINE.replace("name='mine-sum'", "name='mine-sum', rewards={'format': judge, 'correctness': judge}")
RAISES = "def judge(message, example):\n    return 1 / 0\n"


@pytest.mark.parametrize("words", [["build", "mine.py", "--size", "10", "--workers", "1"], ["audit", "mine.py"]])
def test_a_reward_that_raises_gets_one_sentence(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(RAISES + JUDGED)
    said = refused(invoke("datagen.cli", *words, cwd=tmp_path))
    assert "mine.py raises: mine.py, line 2: ZeroDivisionError: division by zero" in said
    assert not (tmp_path / "data" / "mine").exists()


def test_a_drawing_that_raises_gets_one_sentence_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def draw(*_):\n    return [][0]\n" + MINE.replace("name='mine',", "name='mine', draw=draw,")
    )
    said = refused(invoke("datagen.cli", "build", "mine.py", "--size", "10", cwd=tmp_path))
    assert "mine.py raises: mine.py, line 2: IndexError: list index out of range" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.parametrize(("source", "says"), FILES.values(), ids=list(FILES))
def test_a_file_that_can_not_be_used_gets_one_sentence(source: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(source)
    assert says in refused(invoke("datagen.cli", "build", "mine.py", "--size", "10", cwd=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["build", "nowhere.py"], "can't read the task file nowhere.py: No such file"),
        (["build", "mine.py:MIND"], "mine.py has no dataset 'MIND': did you mean 'MINE'?"),
        (["build", "mind", "--task-file", "mine.py"], "there is no dataset 'mind': did you mean 'mine'?"),
        (["build", "mine", "--task-file=mine.py", "--digts", "2"], "no such option: --digts"),
        (["build", "mine"], "name your file with --task-file"),
        (["verify", "data", "--task-file", "."], "can't read the task file"),
        (["check", "mine.py:M"], "mine.py has no dataset 'M': known: MINE"),
        (["new-task", "digits"], "there is a dataset 'digits' already"),
        (["new-task", "My Task"], "'My Task' can't be the name of a dataset"),
        (["new-task", "mine", "--out", "."], "is there already: name another folder"),
    ],
)
def test_a_wrong_argument_gets_one_sentence(words: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    assert says in refused(invoke("datagen.cli", *words, cwd=tmp_path))


PACKAGES = {
    "it raises": ({"source": "x = 1\ny = x / 0\n"}, "r1vlm_pear.py, line 2: ZeroDivisionError: division by zero"),
    "nothing there": ({"source": MINE, "value": "MIND"}, "has no attribute 'MIND'"),
    "something else": (
        {"source": MINE, "value": "SUM"},
        "names r1vlm_pear:SUM as the dataset 'mine', and it is a Task",
    ),
    "another name": ({"source": MINE.replace("'mine'", "'other'")}, "and it is the dataset 'other': correct it there"),
    "a task that is built in": (
        {"source": MINE.replace("mine-sum", "sum")},
        "a task of r1vlm and of the package pear 0.1.0",
    ),
}


@pytest.mark.parametrize(("package", "says"), PACKAGES.values(), ids=list(PACKAGES))
def test_a_package_that_can_not_be_used_gets_one_sentence_and_disturbs_no_other(
    package: dict[str, str], says: str, installed: Installed, tmp_path: Path
) -> None:
    installed("pear", **package)
    assert says in refused(invoke("datagen.cli", "build", "mine", "--size", "10", cwd=tmp_path))
    assert says in succeeded(invoke("datagen.cli", "tasks"))
    assert "of the package pear 0.1.0" in succeeded(invoke("datagen.cli", "build", "--help")).lower()


def test_a_package_is_not_loaded_before_its_dataset_is_named(installed: Installed) -> None:
    installed("pear", MINE)
    for words in (["--help"], ["build", "--help"], ["build", "digits", "--help"]):
        assert invoke("datagen.cli", *words).returncode == 0
        assert "r1vlm_pear" not in sys.modules
    assert invoke("datagen.cli", "build", "mine", "--help").returncode == 0
    assert "r1vlm_pear" in sys.modules


def test_two_owners_of_one_name_are_refused_and_named(installed: Installed, tmp_path: Path) -> None:
    installed("pear", MINE)
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    both = ["the package pear 0.1.0", f"the file {file}"]
    for words in (["build", str(file)], ["build", "mine", "--task-file", file], ["check", file]):
        said = refused(invoke("datagen.cli", *words, cwd=tmp_path))
        assert all(owner in said for owner in both), said
        assert "'mine' is the name of a dataset or a task of" in said
    installed("plum", MINE)
    said = refused(invoke("datagen.cli", "build", "mine"))
    assert "of the package pear 0.1.0 and of the package plum 0.1.0" in said
    installed("digits", MINE.replace("'mine'", "'digits'"), name="digits")
    said = refused(invoke("datagen.cli", "build", "digits", cwd=tmp_path))
    assert "'digits' is the name of a dataset or a task of r1vlm and of the package digits 0.1.0" in said


def test_a_file_is_what_it_was_when_it_was_read_and_another_when_it_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(RAISES.replace("1 / 0", "0.5") + JUDGED)
    registry.add_file(file)
    first = registry.find_task("mine-sum")
    file.write_text("# longer\n" + file.read_text().replace("0.5", "0.25"))
    before = reward_hash(first)
    registry.add_file(file)
    again = registry.find_task("mine-sum")
    assert registry.find_dataset("mine").tasks == (again,)
    assert reward_hash(again) != before
    assert again.rewards["correctness"]("", {}) == 0.25


def test_the_scan_of_packages_is_made_once() -> None:
    registry.find_dataset("digits")
    before = _installed.cache_info().misses
    for _ in range(100):
        registry.find_dataset("digits")
    assert _installed.cache_info().misses == before
