"""Every command of the README and the documentation is run as it stands there, on little data, or is run elsewhere."""

from __future__ import annotations

import random
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from tests.outside import registry_restored
from tests.processes import invoke
from tests.test_docs import MODULES, PAGES, block_lines

pytestmark = pytest.mark.slow
OURS = ("r1vlm-", "make ", "pip ", "python -m pytest ", "vf-eval ", "lmms-eval ")
ELSEWHERE = {  # commands that are not run here, by what is in them, and where they are
    r"^make (demo|test|setup)": ".ci/run runs `make test`, which is this; benchmarks/demo.py runs the demos",
    r"^pip ": "make test-install",
    r"USER/|--push\b": "tests/test_hub.py, on a Hub of its own",
    r"--endpoint ": "tests/evaluation/test_servers.py, with servers of its own",
    r"--engine ray": "tests/datagen/test_executors.py, on a cluster of its own",
    r"^r1vlm-data play": "tests/datagen/test_play.py: it asks a person",
    r"^r1vlm-eval play": "tests/evaluation/test_play.py: it serves a page",
    r"^(vf-eval|lmms-eval) |--env ": "make test-verifiers, make test-lmms-eval",
    r"^(python -m pytest r1vlm-my-task|r1vlm-data build my-task)$": "tests/test_outside_tasks.py installs it first",
    r"--hardware 4gpu$|--recipe lora|own-exact": "needs GPUs",
}
SMALLER = {  # what is added to a command, and stands for the options of the page where it has them
    "r1vlm-data build": ["--size", "40"],
    "r1vlm-train": ["--steps", "1", "--traces", "4", "--no-report", "--set", "per_device_train_batch_size=8"],
    "r1vlm-eval": ["--limit", "4", "--max-new-tokens", "8"],
}
COMES_BEFORE = {  # commands of other pages, whose results a page takes
    "evaluation.md": ["r1vlm-data build digits", "r1vlm-train digits"],
    "other-tools.md": ["r1vlm-data build digits", "r1vlm-data build zoom"],
    "training.md": ["r1vlm-data build digits"],
    "hardware.md": ["r1vlm-data build digits"],
}


def commands(page: str) -> list[str]:
    """The commands in a page's blocks of code: what stands in a sentence may be a part of one."""
    return [line for line in block_lines(PAGES[page]) if line.startswith(OURS)]


def write_photos(folder: Path) -> None:
    """The two tables of images that the page on images of one's own begins with."""
    colours = {"red": (200, 30, 30), "blue": (30, 30, 200)}
    lines = ["file,question,colour"]
    (folder / "photos").mkdir()
    rng = random.Random(0)
    for name, colour in colours.items():
        (folder / "classes" / name).mkdir(parents=True)
        for i in range(40):
            image = Image.new("RGB", (56, 56), colour)
            for _ in range(6):
                x, y = rng.randrange(40), rng.randrange(40)
                image.paste(tuple(rng.randrange(256) for _ in range(3)), (x, y, x + 12, y + 9))
            image.save(folder / "photos" / f"{name}{i}.png")
            image.save(folder / "classes" / name / f"{i}.png")
            lines.append(f"{name}{i}.png,Which colour is the paper?,{name}")
    (folder / "photos" / "table.csv").write_text("\n".join(lines))


def smaller(line: str) -> list[str]:
    """The words of a command, which does the same with little."""
    words = shlex.split(line)
    for start, options in SMALLER.items():
        if line.startswith(start) and "--dry-run" not in words and "--doctor" not in words:
            if "--size" in words:
                del words[words.index("--size") : words.index("--size") + 2]
            return words + options
    return words


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_the_commands_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file, code in re.findall(r'```python title="(.*?)"\n(.*?)```', PAGES[page], flags=re.DOTALL):
        (tmp_path / file).write_text(code)
    write_photos(tmp_path)
    for line in [*COMES_BEFORE.get(page, []), *commands(page)]:
        if any(re.search(pattern, line) for pattern in ELSEWHERE):
            continue
        command, *words = smaller(line)
        with registry_restored():
            done = invoke(MODULES[command], *words)
        assert done.returncode == 0, f"{line}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}"


def test_the_python_of_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGES["quickstart-cpu.md"], flags=re.DOTALL)
    for whole, less in {
        "size=2000": "size=40",
        "report=False": "report=False, steps=1, traces=4, settings={'per_device_train_batch_size': 8}",
        "checkpoint=str(final)": "checkpoint=str(final), limit=4, max_new_tokens=8",
    }.items():
        assert whole in code
        code = code.replace(whole, less)
    exec(compile(code, "quickstart-cpu.md", "exec"), {"__name__": "quickstart"})


def test_no_reason_is_left_over() -> None:
    lines = [line for page in PAGES for line in commands(page)]
    for pattern in ELSEWHERE:
        assert any(re.search(pattern, line) for line in lines), pattern
