"""Whether the three backends hold the same episodes: `python -m benchmarks.episodes CHECKPOINT DATA`, where vLLM is.

Each backend is a command of its own, `r1vlm-eval` on the first `QUESTIONS` questions of the test split, greedy, with a
cache of its own. Compared are all messages of an episode, its calls, and the hashes of the images that came back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.eval import serving

QUESTIONS = os.environ.get("QUESTIONS", "300")
IMAGES = '{"image": 16}'  # that a conversation may show: more than any built-in task has


def evaluate(checkpoint: Path, data: Path, out: Path, *backend: str) -> list[str]:
    """The lines of `completions.jsonl`, one an episode."""
    words = [str(checkpoint), "--data", str(data), "--limit", QUESTIONS, "--max-new-tokens", "128", *backend]
    command = [str(Path(sys.executable).parent / "r1vlm-eval"), *words, "--out", str(out)]
    subprocess.run(command, env={**os.environ, "R1VLM_CACHE": str(out / "cache")}, check=True)
    return (out / "completions.jsonl").read_text(encoding="utf-8").splitlines()


def main() -> None:
    """Print how many episodes of each backend are those of transformers."""
    checkpoint, data = (Path(word).resolve() for word in sys.argv[1:])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = {"transformers": evaluate(checkpoint, data, folder / "transformers", "--engine", "transformers")}
        lines["vLLM in this process"] = evaluate(checkpoint, data, folder / "vllm", "--engine", "vllm")
        with serving(str(checkpoint), "--limit-mm-per-prompt", IMAGES) as endpoint:
            lines["vLLM's server"] = evaluate(checkpoint, data, folder / "server", "--endpoint", endpoint)
    expected = lines["transformers"]
    calls = sum(len(json.loads(line)["turns"]) for line in expected)
    print(f"{len(expected)} episodes, {calls} messages with an answer from the environment")
    for backend, found in lines.items():
        print(f"{backend}: {sum(a == b for a, b in zip(expected, found, strict=True))} the same")


if __name__ == "__main__":
    main()
