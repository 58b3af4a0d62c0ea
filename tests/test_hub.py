"""Publishing on the Hub and reading from it, with the real client libraries, against a Hub that speaks HTTP here."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import huggingface_hub
import pytest
from packaging.version import Version

from datagen.dataset.build import build
from datagen.dataset.config import DatasetConfig
from datagen.dataset.manifest import table_sizes
from datagen.dataset.reader import open_dataset
from datagen.hub.fetch import download
from datagen.registry import DATASETS
from tests.conftest import MakeOnce
from tests.datagen import own_images as own
from tests.hub import Hub, running
from tests.processes import invoke, kill_when, refused, run

TOKEN = "hf_writes"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning"),
]  # huggingface_hub's own
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running() as hub:
        yield hub


@pytest.fixture
def env(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """The environment of a user of this Hub who has downloaded nothing yet."""
    ours = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": TOKEN}
    return os.environ | ours | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class Stderr:
    """Standard error as it is when something is written; a logger's handler keeps that of its first moment."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@contextmanager
def fresh_client(env: Mapping[str, str]) -> Iterator[None]:
    """huggingface_hub as a new process with this environment has it: it reads its settings when it is imported."""
    from huggingface_hub import close_session, constants
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()
    for handler in logging.get_logger("huggingface_hub").handlers:
        handler.setStream(Stderr())
    try:
        with patch.dict(os.environ, env, clear=True):
            importlib.reload(constants)
            download.cache_clear()
            close_session()  # the client is made from variables of the environment too
            yield
    finally:
        close_session()
        importlib.reload(constants)


@pytest.fixture
def data(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Calls `r1vlm-data` in this process; keywords change the environment."""
    monkeypatch.setattr("datagen.hub.errors.WAITS", (0.05, 0.1))

    def call(*words: str | Path, **changes: str) -> Done:
        with fresh_client(env | changes):
            return invoke("datagen.cli", *words)

    return call


def script(text: str, env: dict[str, str], *words: str | Path) -> str:
    """What a Python script prints."""
    done = subprocess.run([sys.executable, "-c", text, *words], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


READ = """
import sys, json
from datasets import load_dataset
from huggingface_hub import DatasetCard
name, folder = sys.argv[1:]
for config in ("r1", "raw"):
    for split in ("train", "validation", "test"):
        far, near = load_dataset(name, config, split=split), load_dataset(folder, config, split=split)
        assert far.features == near.features and len(far) == len(near) > 0
        assert all(a == b for a, b in zip(far, near))
print(json.dumps(DatasetCard.load(name).data.to_dict()))
"""


def test_images_of_your_own_read_back(hub: Hub, env: dict[str, str], data: Any, tmp_path: Path) -> None:
    own.write_csv(tmp_path / "csv")
    words = ["--image", "file", "--question", "question", "--answer", "colour", "--judge", "exact", "--workers", "1"]
    folder = tmp_path / "colours"
    assert data("import", tmp_path / "csv" / "table.csv", *words, "--out", folder).returncode == 0
    done = data("push", folder, "--repo", "ada/colours")
    assert done.returncode == 0, done.stderr
    assert hub.repos["datasets/ada/colours"].main == contents(folder)
    script(READ, env, "ada/colours", folder)
    assert "full marks" in data("verify", "ada/colours").stdout


@pytest.mark.parametrize("name", DATASETS)
def test_what_is_published_reads_back(name: str, hub: Hub, env: dict[str, str], data: Any, tmp_path: Path) -> None:
    folder = tmp_path / "built"
    done = data("build", name, "--size", "40", "--out", folder, "--push")
    assert done.returncode == 0, done.stderr
    repo = hub.repos[f"datasets/ada/r1vlm-{name}"]
    assert f"{hub.address}/datasets/ada/r1vlm-{name}: published, commit {repo.branches['main']}" in done.stdout
    assert repo.main == contents(folder)
    assert hub.writes() == 1
    assert "POST /api/validate-yaml" in hub.seen  # which refuses what it doesn't like
    about = json.loads(script(READ, env, f"ada/r1vlm-{name}", folder))
    assert {one["config_name"]: bool(one.get("default")) for one in about["configs"]} == {"r1": True, "raw": False}
    sizes = table_sizes(folder)
    for info in about["dataset_info"]:
        split = {one["name"]: one["num_examples"] for one in info["splits"]}
        assert split == {name: size["rows"] for name, size in sizes[info["config_name"]].items()}
    card = repo.main["README.md"].decode()
    pictures = [path for path in repo.main if path.startswith("examples/")]
    assert pictures
    assert all(f"]({path})" in card for path in pictures)


@pytest.fixture(scope="session")
def digits(make_once: MakeOnce) -> Path:
    """Two digits datasets, `built` and `other`."""

    def fill(folder: Path) -> None:
        for seed, name in enumerate(("built", "other")):
            build(DatasetConfig(dataset="digits", size=40, seed=seed), folder / name, workers=1)

    return make_once("hub", fill)


@pytest.fixture
def built(digits: Path) -> Path:
    """A digits dataset; nobody may change it."""
    return digits / "built"


@pytest.fixture
def other(digits: Path) -> Path:
    """Another one, of another seed."""
    return digits / "other"


@pytest.fixture
def unharmed(built: Path) -> Iterator[Path]:
    """The same; a test that changes it fails."""
    before = contents(built)
    yield built
    assert contents(built) == before


def test_the_same_again_is_no_new_commit(hub: Hub, data: Any, unharmed: Path) -> None:
    assert data("push", unharmed).returncode == 0
    again = data("push", unharmed)
    assert again.returncode == 0
    assert "already there, the same" in again.stdout
    assert hub.writes() == 1


def test_something_else_is_replaced_by_force_only(hub: Hub, data: Any, unharmed: Path, other: Path) -> None:
    assert data("push", other).returncode == 0
    theirs = hub.repos["datasets/ada/r1vlm-digits"].main
    assert "--force" in refused(data("push", unharmed))
    assert hub.repos["datasets/ada/r1vlm-digits"].main == theirs
    hub.put("datasets/ada/diary", {"README.md": b"# mine", "monday.txt": b"rain"})
    assert "ada/diary holds something else" in refused(data("push", unharmed, "--repo", "ada/diary"))
    assert data("push", unharmed, "--repo", "ada/diary", "--force").returncode == 0
    assert hub.repos["datasets/ada/diary"].main == contents(unharmed)


def test_branches_pull_requests_and_private_repositories(hub: Hub, data: Any, unharmed: Path) -> None:
    hub.put("datasets/ada/diary", {"monday.txt": b"rain", ".cache/mine": b"x", ".gitignore": b"*.parquet"})
    hub.fail("POST", "/commit/", "lost")
    for said in ("already there, the same", "already there, the same"):  # no second one, after a lost answer or again
        pull = data("push", unharmed, "--repo", "ada/diary", "--create-pr")
        assert pull.returncode == 0, pull.stderr
        assert f"{hub.address}/datasets/ada/diary/discussions/1: {said}" in pull.stdout
    hub.fail("POST", "/commit/", 500)
    assert data("push", unharmed, "--repo", "ada/diary", "--revision", "digits").returncode == 0
    diary = hub.repos["datasets/ada/diary"]
    assert diary.pulls == 1
    assert diary.main == {"monday.txt": b"rain"}
    published = {name: text for name, text in diary.commits[diary.branches["digits"]].items() if name[0] != "."}
    assert published == contents(unharmed)
    read = data("verify", "ada/diary@digits")
    assert f"ada/diary@{diary.branches['digits']}: all is as claimed" in read.stdout
    assert "ada/diary is public already" in refused(data("push", unharmed, "--repo", "ada/diary", "--private"))
    assert data("push", unharmed, "--repo", "ada/secret", "--private").returncode == 0
    assert hub.repos["datasets/ada/secret"].private


def test_what_others_have_added_stays(hub: Hub, data: Any, unharmed: Path) -> None:
    assert data("push", unharmed).returncode == 0
    repo = hub.repos["datasets/ada/r1vlm-digits"]
    left = {"LICENSE": b"mine", "r1/train-00000-of-00009.parquet": b"of an older version", "README.md": b"# Old"}
    repo.commit(repo.commits[repo.branches["main"]] | left, "main")
    assert data("push", unharmed).returncode == 0
    assert repo.main == contents(unharmed) | {"LICENSE": b"mine"}
    assert data("push", unharmed, "--force").returncode == 0
    assert repo.main == contents(unharmed)


def test_a_dataset_that_is_not_what_it_claims_is_not_published(
    hub: Hub, data: Any, built: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    for name, content in contents(built).items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content if name != "README.md" else content + b"Edited.\n")
    assert "README.md is not the card of this manifest" in refused(data("push", copy))
    assert not hub.repos
    assert data("card", copy).returncode == 0
    assert contents(copy) == contents(built)
    (copy / "manifest.json").write_text('{"recipe": {}, "files": {}, "fingerprint": ""}')
    assert "manifest.json is damaged" in refused(data("card", copy))
    assert "is no folder here" in refused(data("card", "ada/r1vlm-digits"))
    assert "add --push, or leave it out" in refused(data("build", "digits", "--out", copy, "--repo", "ada/x"))


REFUSED = {
    "no token": ({"HF_TOKEN": ""}, [], "you are not logged in"),
    "a token that is none": ({"HF_TOKEN": "hf_wrong"}, [], "does not accept your token"),
    "a token that may only read": ({"HF_TOKEN": "hf_reads"}, [], "your token may only read"),
    "a token without that right": ({"HF_TOKEN": "hf_fine"}, [], "your token may not do this with ada/r1vlm-digits"),
    "somebody else's name": ({}, ["--repo", "grace/new"], "your token may not do this with grace/new"),
    "a name that is taken": ({}, ["--repo", "grace/digits", "--force"], "your token may not do this with grace/digits"),
    "a token that can be none": ({"HF_TOKEN": "hf_\xe9"}, [], "your token is none"),
    "no name": ({}, ["--repo", "digits"], "write USER/NAME"),
    "a name that the Hub does not take": ({}, ["--repo", "ada/a--b"], "write USER/NAME"),
    "offline": ({"HF_HUB_OFFLINE": "1"}, [], "HF_HUB_OFFLINE is set"),
    "no address": ({"HF_ENDPOINT": "127.0.0.1:9"}, [], "HF_ENDPOINT begins with https://"),
    "a proxy of another kind": ({"ALL_PROXY": "socks5://ada:pw@127.0.0.1:9"}, [], "ALL_PROXY names a SOCKS proxy"),
    "no network": ({"HF_ENDPOINT": "http://127.0.0.1:9"}, [], "can't reach http://127.0.0.1:9: check the network"),
}
if Version(huggingface_hub.__version__).major < 2:  # its client is httpx; httpx2 takes such a network
    REFUSED["a network of IPv6"] = ({"NO_PROXY": "127.0.0.1,fd00::/8"}, [], "NO_PROXY holds what is no host")


@pytest.mark.parametrize("why", REFUSED)
def test_a_push_that_cannot_be(why: str, hub: Hub, data: Any, unharmed: Path, tmp_path: Path) -> None:
    hub.put("datasets/grace/digits", {"README.md": b"# hers"})
    changes, words, sentence = REFUSED[why]
    said = refused(data("push", unharmed, *words, **changes))
    assert sentence in said
    assert not [token for token in hub.tokens if token in said]
    assert hub.repos.keys() == {"datasets/grace/digits"}
    assert hub.writes() == 0
    if why != "a token without that right" and "--repo" not in words:  # found before anything is drawn
        refused(data("build", "digits", "--size", "40", "--out", tmp_path / "new", "--push", **changes))
        assert not (tmp_path / "new").exists()


PASSING = {
    "429, with the time to wait": ("POST", "/repos/create", 429, {"Retry_After": "1"}),
    "500 when it is asked who we are": ("GET", "/whoami-v2", 500, {}),
    "503 for a file": ("PUT", "/large/", 503, {}),
    "503 for the card's check": ("POST", "/validate-yaml", 503, {}),
    "500 for the commit": ("POST", "/commit/", 500, {}),
    "the connection cut in the middle of a file": ("PUT", "/large/", "cut", {}),
    "the connection cut in the middle of the commit": ("POST", "/commit/", "cut", {}),
    "the commit done and the answer lost": ("POST", "/commit/", "lost", {}),
}


@pytest.mark.parametrize("why", PASSING)
def test_a_fault_that_passes(why: str, hub: Hub, data: Any, unharmed: Path) -> None:
    method, pattern, answer, headers = PASSING[why]
    hub.fail(method, pattern, answer, 1, **headers)
    done = data("push", unharmed)
    assert done.returncode == 0, done.stderr
    assert "again" in done.stderr or "Retrying" in done.stderr
    assert "X-Signature" not in done.stderr
    repo = hub.repos["datasets/ada/r1vlm-digits"]
    assert repo.main == contents(unharmed)
    assert len(repo.commits) == 2  # that of the repository's making, and ours


def test_a_hub_that_stays_busy(hub: Hub, data: Any, unharmed: Path) -> None:
    hub.fail("POST", "/commit/", 503, 99)
    done = data("push", unharmed)
    assert done.returncode == 2
    assert f"{hub.address} is busy (answer 503): run the same command again later" in done.stderr.splitlines()[-1]
    assert hub.repos["datasets/ada/r1vlm-digits"].main == {}
    hub.faults.clear()
    assert data("push", unharmed).returncode == 0
    assert sum(line.startswith("PUT") for line in hub.seen) == len(hub.large)  # none was sent twice
    assert hub.repos["datasets/ada/r1vlm-digits"].main == contents(unharmed)


def test_a_hub_that_echoes_the_token(hub: Hub, data: Any, unharmed: Path, tmp_path: Path) -> None:
    hub.fail("POST", "/repos/create", 400, 99, X_Error_Message=f"{'x' * 280} bad token {TOKEN}, {TOKEN}")
    for token in ({}, {"HF_TOKEN": "", "HF_TOKEN_PATH": str(tmp_path / "token")}):  # of the environment, and of a file
        (tmp_path / "token").write_text(TOKEN)
        said = refused(data("push", unharmed, **token))
        assert "refuses ada/r1vlm-digits (answer 400: xxx" in said
        assert "bad token ***" in said
        assert TOKEN[:-1] not in said


def test_a_storage_that_refuses(hub: Hub, data: Any, unharmed: Path) -> None:
    hub.fail("PUT", "/large/", 403, 99)
    assert "your token may not do this" in refused(data("push", unharmed))
    assert hub.repos["datasets/ada/r1vlm-digits"].main == {}


def test_a_hub_without_xet(hub: Hub, data: Any, unharmed: Path) -> None:
    assert "has no Xet storage: set HF_HUB_DISABLE_XET=1" in refused(data("push", unharmed, HF_HUB_DISABLE_XET="0"))
    assert hub.repos["datasets/ada/r1vlm-digits"].main == {}


def test_a_push_that_is_killed_goes_on(hub: Hub, env: dict[str, str], data: Any, unharmed: Path) -> None:
    last = max(hashlib.sha256(content).hexdigest() for name, content in contents(unharmed).items() if "r1" in name)
    hub.fail("PUT", last, "slow")
    kill_when(lambda: len(hub.large) == len(list(unharmed.rglob("*.p*"))) - 1, "datagen.cli", "push", unharmed, env=env)
    assert hub.repos["datasets/ada/r1vlm-digits"].main == {}
    before = [line for line in hub.seen if line.startswith("PUT")]
    assert data("push", unharmed).returncode == 0
    assert [line for line in hub.seen if line.startswith("PUT")][len(before) :] == [f"PUT /large/{last}"]
    assert hub.repos["datasets/ada/r1vlm-digits"].main == contents(unharmed)


def test_two_pushes_at_once(hub: Hub, env: dict[str, str], unharmed: Path, other: Path) -> None:
    def push(folder: Path, *words: str) -> Done:
        return run("datagen.cli", "push", folder, *words, env=env)

    with ThreadPoolExecutor() as pool:
        both = list(pool.map(push, (unharmed, other)))
    assert sorted(done.returncode for done in both) == [0, 2], [done.stderr for done in both]
    loser = next(done for done in both if done.returncode)
    assert "holds something else" in loser.stderr.splitlines()[-1]
    assert hub.repos["datasets/ada/r1vlm-digits"].main in (contents(unharmed), contents(other))
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: push(unharmed, "--repo", "ada/new"), range(2)))
    assert [done.returncode for done in both] == [0, 0], [done.stderr for done in both]
    assert len(hub.repos["datasets/ada/new"].commits) == 2


def test_reading_what_cannot_be_read(hub: Hub, data: Any, tmp_path: Path) -> None:
    hub.put("datasets/grace/gated", {"README.md": b"#"}, gated=True)
    hub.put("datasets/grace/private", {"README.md": b"#"}, private=True)
    hub.put("datasets/grace/other", {"README.md": b"#"})
    for name, sentence in {
        "grace/gated": "grace/gated is gated: ask for access",
        "grace/private": "no dataset of that name on",
        "grace/none": "no dataset of that name on",
        "grace/other@yesterday": "grace/other has no revision yesterday",
        "grace/other": "no manifest.json in it",
    }.items():
        assert sentence in refused(data("verify", name))
    assert "has been downloaded" in refused(data("verify", "grace/other2", HF_HUB_OFFLINE="1"))
    assert "can't reach" in refused(data("verify", "grace/other2", HF_ENDPOINT="http://127.0.0.1:9"))


EXPORTED = """
import sys, json, yaml
from datasets import load_dataset
yaml.FullLoader.add_constructor("!function", lambda loader, node: None)
task = yaml.full_load(open(sys.argv[1]))
rows = load_dataset(task["dataset_path"], "r1", **task["dataset_kwargs"])["test"]
print(json.dumps([task, list(rows["id"])]))
"""


def test_a_task_exported_from_the_hub_keeps_to_its_commit(
    hub: Hub, env: dict[str, str], data: Any, digits: Path, tmp_path: Path
) -> None:
    unharmed, other = digits / "built", digits / "other"
    assert data("push", unharmed).returncode == 0
    commit = hub.repos["datasets/ada/r1vlm-digits"].branches["main"]
    done = data("export", "lmms-eval", "ada/r1vlm-digits", "--out", tmp_path / "tasks")
    assert done.returncode == 0, done.stderr
    assert data("export", "verifiers", "ada/r1vlm-digits", "--out", tmp_path / "package").returncode == 0
    module = (tmp_path / "package" / "r1vlm_digits_verifiers" / "__init__.py").read_text()
    assert f"DATA = 'ada/r1vlm-digits@{commit}'" in module
    assert data("push", other, "--force").returncode == 0
    task, asked = json.loads(script(EXPORTED, env, tmp_path / "tasks" / "r1vlm_digits_sum.yaml"))
    assert (task["dataset_path"], task["dataset_kwargs"]["revision"]) == ("ada/r1vlm-digits", commit)
    assert asked == list(open_dataset(unharmed).questions("test", ["sum"])["id"])


def test_downloads_through_faults_and_without_the_hub(
    hub: Hub, env: dict[str, str], data: Any, unharmed: Path, tmp_path: Path
) -> None:
    assert data("push", unharmed).returncode == 0
    hub.fail("GET", "/revision/main", 503)
    hub.fail("GET", r"/resolve/.*train.*parquet", "cut")
    done = data("verify", "ada/r1vlm-digits", HF_TOKEN="")
    assert done.returncode == 0, done.stderr
    commit = hub.repos["datasets/ada/r1vlm-digits"].branches["main"]
    assert f"ada/r1vlm-digits@{commit}: all is as claimed" in done.stdout
    assert data("verify", "ada/r1vlm-digits", HF_HUB_OFFLINE="1").returncode == 0
    unreachable = data("verify", "ada/r1vlm-digits", HF_ENDPOINT="http://127.0.0.1:9")
    assert unreachable.returncode == 0
    assert "taking ada/r1vlm-digits as it was downloaded before" in unreachable.stderr
    gone = hub.repos.pop("datasets/ada/r1vlm-digits")  # then nothing is taken from the cache
    assert "no dataset of that name on" in refused(data("verify", "ada/r1vlm-digits"))
    hub.repos["datasets/ada/r1vlm-digits"] = gone
    picture = tmp_path / "preview.png"
    assert data("preview", "ada/r1vlm-digits", "--out", picture, HF_HUB_OFFLINE="1").returncode == 0

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    full = subprocess.run(
        [sys.executable, "-m", "datagen.cli", "verify", "ada/r1vlm-digits"],
        env=env | {"HF_HOME": str(tmp_path / "other")},
        preexec_fn=small_disk,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "can't write" in refused(full)


TINY = ("--set", "per_device_train_batch_size=8", "--set", "num_generations=4", "--set", "max_completion_length=32")
CARDS = """
import sys, json
from huggingface_hub import ModelCard
card = ModelCard.load(sys.argv[1])
assert card.data.license == "other" and card.data.license_name == "mine" and card.data.base_model == "ada/base"
found = [[one.task_name, one.dataset_type, one.dataset_revision, one.metric_value] for one in card.data.eval_results]
print(json.dumps(found))
code = card.text.split("```python")[1].split("```")[0]
exec(code, dict(SYSTEM="You think.", QUESTION="Read the digits.", FILE=sys.argv[2]))
"""


def test_training_and_evaluation_from_the_hub_alone(
    hub: Hub, env: dict[str, str], data: Any, random_checkpoint: Path, tmp_path: Path
) -> None:
    assert data("build", "digits", "--size", "40", "--out", tmp_path / "built", "--push").returncode == 0
    base = {name: content for name, content in contents(random_checkpoint).items() if "/" not in name}
    base |= {"README.md": b"---\nlicense: other\nlicense_name: mine\n---\n# A base", "modeling.py": b"raise SystemExit"}
    hub.put("models/ada/base", base)
    train = [
        "digits",
        "--data",
        "ada/r1vlm-digits",
        "--model",
        "ada/base",
        "--steps",
        "2",
        *TINY,
        "--push-to-hub",
        "--no-report",
    ]
    with fresh_client(env | {"HF_TOKEN": "hf_reads"}):
        sentence = refused(invoke("training.cli", *train, cwd=tmp_path))
    assert "your token may only read" in sentence
    assert not (tmp_path / "runs").exists()
    trained = run("training.cli", *train, env=env, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr

    repo = hub.repos["models/ada/r1vlm-digits-base"]
    assert f"{hub.address}/ada/r1vlm-digits-base: published, commit {repo.branches['main']}" in trained.stdout
    assert {
        "README.md",
        "r1vlm.json",
        "model.safetensors",
        "chat_template.jinja",
        "reward_curve.png",
    } <= repo.main.keys()
    assert not [name for name in repo.main if name.endswith((".bin", ".pt", ".pth")) or name == "trainer_state.json"]
    record = json.loads(repo.main["r1vlm.json"])
    commits = {name: one.branches["main"] for name, one in hub.repos.items()}
    assert record["dataset"] == f"ada/r1vlm-digits@{commits['datasets/ada/r1vlm-digits']}"
    assert record["base_model"] == f"ada/base@{commits['models/ada/base']}"
    assert not [name for name, content in repo.main.items() if str(tmp_path).encode() in content]

    words = [
        "ada/r1vlm-digits-base",
        "--baseline",
        "ada/base",
        "--max-new-tokens",
        "32",
        "--push-card",
    ]
    scored = run("evaluation.cli", *words, env=env, cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    comparison = json.loads((tmp_path / "runs/eval/comparison.json").read_text())
    assert comparison["data"] == record["dataset"]
    assert {name: content for name, content in repo.main.items() if name != "README.md"} == {
        name: content
        for name, content in repo.commits[commits["models/ada/r1vlm-digits-base"]].items()
        if name in repo.main and name != "README.md"
    }
    results, _, said = script(
        CARDS, env, "ada/r1vlm-digits-base", next((tmp_path / "built/examples").iterdir())
    ).partition("\n")
    data_commit = commits["datasets/ada/r1vlm-digits"]
    assert json.loads(results) == [
        [row["task"], "ada/r1vlm-digits", data_commit, round(100 * row["after"], 2)]
        for row in comparison["slices"]["by_task"]
    ]
    assert "Let me solve this step by step." in said

    again = run("training.cli", *train, "--resume", env=env, cwd=tmp_path)
    assert "already there, the same" in again.stdout  # and the card with the results stays
    assert b"## Results" in repo.main["README.md"]
    score = ["ada/r1vlm-digits-base", "--max-new-tokens", "32", "--push-card"]
    for more, sentence in {
        ("--limit", "3"): "leave out --limit, --task and --split with --push-card",
        ("--samples", "2"): "leave out --samples and --temperature with --push-card",
        ("--repo", "ada/none"): "there is no ada/none yet: publish the checkpoint there first",
        ("--repo", "ada/base"): "ada/base holds something else: publish the checkpoint there first",
        ("--revision", "other"): "ada/r1vlm-digits-base has no revision other",
    }.items():
        with fresh_client(env):
            assert sentence in refused(invoke("evaluation.cli", *score, *more, cwd=tmp_path))
    with fresh_client(env):
        words = ["ada/base", "--data", "ada/r1vlm-digits", "--push-card"]
        assert "leave out --push-card" in refused(invoke("evaluation.cli", *words, cwd=tmp_path))

    for done in (trained, scored):
        assert TOKEN not in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
