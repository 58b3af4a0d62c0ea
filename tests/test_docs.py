"""What the README and the documentation promise is true: options exist, the task works, figures were measured."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from datagen.dataset.reader import open_dataset
from datagen.registry import find_task
from datagen.task import score
from tests.outside import registry_restored
from tests.processes import invoke
from training.launch.plan_rendering import presets_table
from training.models import DEFAULT_MODEL

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
MODULES = {"r1vlm-data": "datagen.cli", "r1vlm-train": "training.cli", "r1vlm-eval": "evaluation.cli"}


def test_the_table_of_presets_is_what_a_plan_says() -> None:
    assert presets_table(DEFAULT_MODEL) in PAGES["hardware.md"]


@pytest.mark.parametrize("page", ["write-a-task.md", "multi-turn.md"])
def test_the_task_of_the_documentation_is_a_dataset_like_any_other(page: str, tmp_path: Path) -> None:
    ((file, code),) = re.findall(r'```python title="(.*?)"\n(.*?)```', PAGES[page], flags=re.DOTALL)
    (tmp_path / file).write_text(code)
    (variable,) = re.findall(r"^(\w+) = DatasetSpec", code, flags=re.MULTILINE)
    with registry_restored():
        checked = invoke("datagen.cli", "check", file, cwd=tmp_path)
        assert checked.returncode == 0, checked.stdout
        built = invoke("datagen.cli", "build", f"{file}:{variable}", "--size", "20", "--out", "built", cwd=tmp_path)
        assert built.returncode == 0, built.stderr
        assert len(open_dataset(tmp_path / "built").questions("test")) == 2


def block_lines(page: str) -> Iterator[str]:
    """The lines of a page's blocks of code, fenced or indented, without their comments."""
    fenced = re.findall(r"^ *```(?:bash|sh).*?\n(.*?)^ *```", page, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (.+)$", page, flags=re.MULTILINE)
    for block in ["\n".join(fenced).replace("\\\n", " "), *indented]:
        yield from (re.sub(r"\s+#.*", "", line).strip() for line in block.splitlines())


def code_lines(page: str) -> Iterator[str]:
    """The lines of code of a page: of its blocks, and between backticks."""
    yield from block_lines(page)
    yield from (re.sub(r"\s+#.*", "", quoted).strip() for quoted in re.findall(r"`([^`\n]+)`", page))


@pytest.mark.parametrize("command", MODULES)
def test_every_option_of_the_documentation_is_one_of_its_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    calls = {line for page in PAGES.values() for line in code_lines(page) if line.startswith(command + " ")}
    assert len(calls) >= 5
    wanted: dict[tuple[str, ...], set[str]] = {}
    for words in map(shlex.split, calls):
        inner = words[1 : {"build": 3}.get(words[1], 2)] if command == "r1vlm-data" or words[1] == "play" else []
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        wanted.setdefault(tuple(inner), set()).update(options)
    for inner, options in wanted.items():
        if inner[-1:] == ("DATASET",) or ".py" in "".join(inner):  # of a file that is not here
            continue
        text = invoke(MODULES[command], *(word for word in inner if not word.startswith("-")), "--help").stdout
        for option in options:
            assert re.search(rf"(?<!\S){option}(?!\S)", text), f"{command} {' '.join(inner)} has no {option}"


def numbers(value: Any) -> Iterator[float]:
    """Every number of a JSON value."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield float(value)


@pytest.mark.parametrize("name", ["pipeline", "pipeline-narrow"])
def test_the_figure_shows_what_was_measured_and_what_the_rewards_give(name: str) -> None:
    page = (ROOT / f"docs/assets/{name}.svg").read_text(encoding="utf-8")
    answers = [element.attrib for element in ElementTree.fromstring(page).iter() if "data-completion" in element.attrib]
    assert len(answers) == 3
    for answer in answers:
        scores = score(find_task("sum"), answer["data-completion"], {"digits": [7, 8, 1]})
        assert scores == {reward: float(answer[f"data-{reward}"]) for reward in scores}
    assert f"{name}.svg" in PAGES["README.md"]
    assert f"{name}.svg" in PAGES["index.md"]
    (seed_0,) = [
        run for run in json.loads((ROOT / "benchmarks/results/demo-digits.json").read_text()) if not run["seed"]
    ]
    measured = {f"{100 * number:.1f}" for number in numbers(seed_0["tasks"]["all"])}
    written = re.findall(r"\d+\.\d(?=%| points)|(?<=\+)\d\d\.\d", page)
    assert len(written) >= 6
    assert set(written) <= measured


def test_every_percentage_of_the_documentation_was_measured() -> None:
    results = [json.loads(path.read_text()) for path in (ROOT / "benchmarks/results").glob("*.json")]
    measured = {f"{100 * number:.1f}" for result in results for number in numbers(result)}
    written = [(name, found) for name, page in PAGES.items() for found in re.findall(r"(\d+\.\d)%|\+(\d+\.\d)", page)]
    assert len(written) >= 30
    assert [(name, found) for name, found in written if "".join(found) not in measured] == []


def test_every_time_of_the_documentation_was_measured_and_ratios_are_in_tables() -> None:
    demos = [json.loads(path.read_text()) for path in (ROOT / "benchmarks/results").glob("demo-*.json")]
    minutes = {f"{one['seconds'] / 60:.0f}" for demo in demos for one in demo}
    for name, page in PAGES.items():
        assert re.findall(r"(\d+\.\d+) (?:times|nats|of the time)", page) == [], name  # such are in tables of results
        assert set(re.findall(r"(\d+) minutes", page)) <= minutes, name


def test_every_link_leads_to_a_file_of_the_repository() -> None:
    """On the site links to files outside docs/ are pointed at their pages, by docs/hooks.py."""
    count = 0
    for page in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("*/README.md"),
        ROOT / "benchmarks/RESULTS.md",
    ]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8")):
            if not re.match(r"https?:|reference/r1vlm-", target):
                count += 1
                assert (page.parent / target).exists(), f"{page.name}: {target}"
    assert count >= 100
