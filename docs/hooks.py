"""Hooks of MkDocs: the reference of the commands, and files that stand elsewhere in the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
ELSEWHERE = {  # address in the documentation: file in the repository
    "architecture.md": "ARCHITECTURE.md",
    "assets/digits.png": "cards/digits.png",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "findings.md": "findings/README.md",
    "results.md": "benchmarks/RESULTS.md",
}
COMMANDS = {
    "r1vlm-data": "datagen.cli",
    "r1vlm-train": "training.cli",
    "r1vlm-eval": "evaluation.cli",
    "r1vlm-eval play": "evaluation.play.cli",
}


def on_files(files: Any, config: Any) -> Any:
    """Add the files from elsewhere, and a page for each command, as Typer writes it."""
    for address, path in ELSEWHERE.items():
        files.append(File.generated(config, address, abs_src_path=str(ROOT / path)))
    for name, module in COMMANDS.items():
        words = [sys.executable, "-m", "typer", module, "utils", "docs", "--name", name]
        text = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        files.append(File.generated(config, f"reference/{name.replace(' ', '-')}.md", content=whole_summaries(text)))
    return files


def whole_summaries(text: str) -> str:
    """The page of a command, with the first line of each subcommand's own section where Typer lists it cut short."""
    summaries = dict(re.findall(r"^#+ `[^`]* ([\w-]+)`\n\n(.+)$", text, re.MULTILINE))
    return re.sub(
        r"^\* `([\w-]+)`: .*\.\.\.$", lambda cut: f"* `{cut[1]}`: {summaries[cut[1]]}", text, flags=re.MULTILINE
    )


def on_page_content(html: str, **_: Any) -> str:
    """Keep each option of a command on one line: browsers break lines behind its hyphens."""

    def keep(code: re.Match[str]) -> str:
        return re.sub(r"(?<![\w-])--?[a-z][\w-]*", r'<span class="option">\g<0></span>', code[0])

    return re.sub(r"<code>[^<]*</code>", keep, html)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links to a file of `ELSEWHERE` at its page; in these files, drop links to files that have none."""
    uri = page.file.src_uri
    source = ROOT / ELSEWHERE.get(uri, f"docs/{uri}")
    pages = {path: address for address, path in ELSEWHERE.items()}

    def pointed(match: re.Match[str]) -> str:
        target, anchor = match.groups("")
        path = os.path.relpath((source.parent / target).resolve(), ROOT)
        return f"]({pages[path]}{anchor})" if path in pages else match[0]

    def kept(match: re.Match[str]) -> str:
        return match[0] if match[2] in ELSEWHERE else match[1]

    text = re.sub(r"\]\((?!https?:)([^)#\s]+)(#[^)\s]*)?\)", pointed, markdown)
    if uri not in ELSEWHERE:
        return text
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:)([^)#\s]+)(?:#[^)\s]*)?\)", kept, text)
