"""GRPO with vLLM's rollouts, on the real engine: what TRL does wrong, what we do, and that preflight tells them apart.

`make test-vllm` runs it. The first tests fail when TRL is right by itself: a part of `trl_compat.py` can go then.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from benchmarks.adapter_sync import make_trainer
from benchmarks.eval import serving
from datagen.common.errors import UserError
from tests.processes import run
from training.recipes import load_recipe

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # vLLM and what it imports warn of their own future
]
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm installs it")
# What LoRA is put on, by how it gets to vLLM.
WAYS: dict[str, dict[str, Any]] = {
    "merged": {"target_modules": "all-linear"},
    "alone": load_recipe("lora")["grpo"]["lora"],
}
SMALL = Path(__file__).parents[2] / "training" / "builtin_models" / "base"


def test_trl_has_no_settings_for_its_engine_yet() -> None:
    from trl import GRPOConfig

    assert "vllm_llm_kwargs" not in {field.name for field in fields(GRPOConfig)}, "TRL #6776: engine_for can go"


def test_trl_leaves_the_images_of_old_weights_in_vllms_cache() -> None:
    from trl.generation.vllm_generation import VLLMGeneration

    text = inspect.getsource(VLLMGeneration.sync_weights)
    assert "reset_encoder_cache" not in text, "TRL #7198: sync_weights need not reset the encoder's cache"


KEPT: list[Any] = []  # an engine that is collected ends the process group that the next one has just begun


@pytest.fixture(scope="module", params=WAYS)
def trainer(request: pytest.FixtureRequest, digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("trainer")
    alone, lora = request.param == "alone", {"r": 4, **WAYS[request.param]}
    made = make_trainer(SMALL, digits_folder, out, lora, alone=alone, vllm_mode="colocate")
    assert (made.vllm_generation.merges is None) == alone
    KEPT.append(made)
    return made


@pytest.fixture
def prompts(digits_folder: Path) -> list[Any]:
    from trl.data_utils import prepare_multimodal_messages

    from datagen.dataset.reader import open_dataset

    rows = open_dataset(digits_folder).questions("train", ["list", "sum"]).select(range(4))
    return [prepare_multimodal_messages(row["prompt"], images=[row["image"]]) for row in rows for _ in range(4)]


@needs_vllm
def test_trl_alone_corrupts_prompts_with_images(
    trainer: Any, prompts: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    generate = trainer.vllm_generation.generate

    def noting(*words: Any, **options: Any) -> Any:
        answer = generate(*words, **options)
        read.extend(answer[0])
        return answer

    monkeypatch.setattr(trainer, "rollout_func", None)
    monkeypatch.setattr(trainer.vllm_generation, "generate", noting)
    trainer._metrics["train"].clear()
    ours = trainer._generate(prompts)[0]
    image = trainer.processing_class.image_token_id
    assert [ids.count(image) for ids in ours] == [9] * len(prompts)
    assert [ids.count(image) for ids in read] == [17] * len(prompts), "TRL #6294: `rollout_func` can go"


@needs_vllm
def test_trl_alone_cant_give_vllm_new_weights_on_a_cpu(trainer: Any) -> None:
    from trl.generation.vllm_generation import VLLMGeneration

    if trainer.vllm_generation.merges is None:
        pytest.skip("it has an adapter")
    with pytest.raises(AttributeError, match="weight_loader"):
        VLLMGeneration.sync_weights(trainer.vllm_generation)
    trainer.model.unmerge_adapter()  # TRL was in the midst of it


@needs_vllm
def test_preflight_passes_and_leaves_no_trace(trainer: Any, prompts: list[Any]) -> None:
    from training.rollout.parity import check, logprobs

    weights = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    chance = torch.random.get_rng_state()
    lines = check(trainer)
    assert len(lines) == 4, lines
    assert "adapter in training" in lines[-1]
    assert all(torch.equal(value, weights[name]) for name, value in trainer.model.named_parameters())
    assert torch.equal(torch.random.get_rng_state(), chance)
    answers = trainer.rollout_func(prompts, trainer)
    with torch.no_grad():
        ours = logprobs(trainer, prompts, answers["completion_ids"])
    assert (
        max(abs(a - b) for x, y in zip(ours, answers["logprobs"], strict=True) for a, b in zip(x, y, strict=True))
        < 0.01
    )
    banned = set(trainer.args.generation_kwargs["logit_bias"])
    assert not banned & {token for ids in answers["completion_ids"] for token in ids}


@needs_vllm
def test_the_loss_shares_prompts(trainer: Any, prompts: list[Any]) -> None:
    check_shared_loss(trainer, prompts)


def check_shared_loss(trainer: Any, prompts: list[Any]) -> None:
    """Of completions that vLLM has sampled, the plain path and the shared one give one loss and its gradients."""
    from tests.training.test_shared_prefix import check_equal
    from training.rollout.parity import loss_inputs

    trainer.share_prefixes()
    assert trainer.shares_loss
    assert not trainer.shares_generation
    trainer.model.train()
    inputs = loss_inputs(trainer, prompts, trainer.rollout_func(prompts, trainer)["completion_ids"])
    check_equal(trainer, inputs, torch.arange(len(prompts)) // trainer.num_generations)
    trainer.shares_loss = False


def broken_template(trainer: Any, patch: pytest.MonkeyPatch) -> None:
    processor = trainer.processing_class
    patch.setattr(processor, "chat_template", processor.chat_template.replace("<|vision_start|><|image_pad|>", ""))


def other_image_size(trainer: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        trainer.processing_class.image_processor, "size", {"shortest_edge": 112 * 112, "longest_edge": 140 * 140}
    )


def other_colours(trainer: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer.processing_class.image_processor, "image_mean", [0.9, 0.9, 0.9])


def adapter_never_merged(trainer: Any, patch: pytest.MonkeyPatch) -> None:
    from peft.tuners.lora import Linear

    patch.setattr(Linear, "get_delta_weight", lambda layer, adapter: 0 * layer.get_base_layer().weight)


def adapter_never_asked_for(trainer: Any, patch: pytest.MonkeyPatch) -> None:
    from trl.generation.vllm_generation import VLLMGeneration

    patch.setattr(type(trainer.vllm_generation), "generate", VLLMGeneration.generate)


def never_synced(trainer: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer.vllm_generation, "sync_weights", lambda: None)


def nothing_banned(trainer: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer.args, "generation_kwargs", {})


@needs_vllm
@pytest.mark.parametrize(
    ("sabotage", "says"),
    [
        (broken_template, "puts 0 image placeholders into a prompt with 1"),
        (other_image_size, "vLLM reads another prompt than the trainer: "),
        (other_colours, "trainer and vLLM give the same tokens other log-probabilities"),
        (adapter_never_merged, "changed weights do not arrive in vLLM"),
        (never_synced, "changed weights do not arrive in vLLM"),
        (nothing_banned, "could be sampled"),
        (adapter_never_asked_for, "changed weights do not arrive in vLLM"),  # the last: vLLM keeps a changed adapter
    ],
)
def test_preflight_catches(
    trainer: Any, sabotage: Callable[[Any, pytest.MonkeyPatch], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.rollout.parity import check

    if sabotage is (adapter_never_merged if trainer.vllm_generation.merges is None else adapter_never_asked_for):
        pytest.skip("of the other way")
    sabotage(trainer, monkeypatch)
    with pytest.raises(UserError) as caught:
        check(trainer)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("lora", "vllm", "says"),
    [
        ({}, {}, None),
        ({"use_dora": True}, {}, "vLLM takes plain LoRA on linear layers of the language model"),
        ({"target_modules": "all-linear"}, {}, "plain LoRA"),  # the vision tower among them
        ({"target_modules": ["embed_tokens"]}, {}, "plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, {}, "more than the adapter is trained"),
        ({"bias": "all"}, {}, "more than the adapter is trained"),
        ({"rank_pattern": {"q_proj": 8}}, {}, "one rank for all layers"),
        ({}, {"enable_sleep_mode": True}, "vllm_enable_sleep_mode"),
        ({}, {"mode": "server"}, "a server is sent all weights"),
        ({}, {"accelerator": Accelerator(cpu=True)}, "code for a CPU"),
    ],
)
def test_an_adapter_is_sent_alone_where_vllm_takes_it(
    lora: dict[str, Any], vllm: dict[str, Any], says: str | None, random_checkpoint: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText
    from trl.distributed import DistributedBackend

    from training.trl_compat import adapter_obstacle

    network = AutoModelForImageTextToText.from_pretrained(random_checkpoint)
    model = get_peft_model(network, LoraConfig(**WAYS["alone"] | lora))
    usual = {"mode": "colocate", "enable_sleep_mode": False, "_dist": DistributedBackend(Accelerator(cpu=True))}
    usual["accelerator"] = SimpleNamespace(device=torch.device("cuda"))
    found = adapter_obstacle(SimpleNamespace(model=model, **usual | vllm))
    assert found is None if says is None else says in (found or "")


def test_trl_lets_a_base_in_bfloat16_drift_under_its_adapter(random_checkpoint: Path) -> None:
    """And what we hand over instead is the same model, from weights that stay as they are."""
    from accelerate import Accelerator
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText
    from trl.generation.vllm_generation import VLLMGeneration

    from training.trl_compat import SyncedVLLMGeneration

    network = AutoModelForImageTextToText.from_pretrained(random_checkpoint, dtype="bfloat16")
    model = get_peft_model(network, LoraConfig(r=4, target_modules="all-linear"))
    torch.manual_seed(0)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.01)
    base = {name: value.detach().clone() for name, value in model.named_parameters()}

    def drift() -> bool:
        return any(not torch.equal(value, base[name]) for name, value in model.named_parameters())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VLLMGeneration, "_init_vllm", lambda self: None)
        ours, theirs = (kind(model, Accelerator(cpu=True), None) for kind in (SyncedVLLMGeneration, VLLMGeneration))
    handed = {name: value.clone() for name, value in ours._iter_named_params()}
    assert not drift()
    expected = {name: value.clone() for name, value in theirs._iter_named_params()}
    assert handed.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(handed[name], value, rtol=0.01, atol=0.001)
    assert drift(), "TRL #6688: SyncedVLLMGeneration._iter_named_params can go"


@pytest.fixture(scope="module")
def served(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A trainer with vLLM's own server. Weights travel by NCCL, which no CPU has: the server's are the checkpoint's."""
    from trl.generation.vllm_client import VLLMClient

    options = ["--enable-scale-out", "--logprobs-mode", "processed_logprobs", "--max-logprobs", "-1"]
    info = {"model_config": {"logprobs_mode": "processed_logprobs"}}  # the endpoint fails where there is no GPU
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")
        patch.setattr(VLLMClient, "init_communicator", lambda self, device: None)
        patch.setattr(VLLMClient, "update_named_params", lambda self, metadata, weights: None)
        patch.setattr(VLLMClient, "get_server_info", lambda self: info)
        with serving(str(SMALL), *options) as address:
            out = tmp_path_factory.mktemp("served")
            base = address.removesuffix("/v1")
            lora = {"r": 4, "target_modules": "all-linear"}
            yield make_trainer(SMALL, digits_folder, out, lora, vllm_mode="server", vllm_server_base_url=base)


@needs_vllm
def test_rollouts_of_a_server_agree_too(served: Any, prompts: list[Any]) -> None:
    from training.rollout.parity import sample

    with torch.no_grad():
        completions, _, found = sample(served, prompts)
    assert len(completions) == len(prompts)
    assert found.worst < 0.01
    assert found.ratio == pytest.approx(1, abs=0.01)


@needs_vllm
def test_the_loss_shares_prompts_with_a_server(served: Any, prompts: list[Any]) -> None:
    check_shared_loss(served, prompts)


@needs_vllm
@pytest.mark.parametrize(
    ("sabotage", "says"),
    [
        (None, "changed weights do not arrive in vLLM"),
        (other_image_size, "tokens in the trainer and 9 in vLLM's server"),
    ],
)
def test_preflight_catches_on_a_server(served: Any, sabotage: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.rollout.parity import check

    if sabotage is not None:
        sabotage(served, monkeypatch)
    with pytest.raises(UserError) as caught:
        check(served)
    assert says in str(caught.value)


@needs_vllm
@pytest.mark.parametrize("lora", [[], ["--set", "lora={r: 4, target_modules: all-linear}"]], ids=["weights", "adapter"])
def test_the_command_trains_with_vllm(lora: list[str], digits_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["digits", "--data", digits_folder, "--model", SMALL, "--out", out, "--vllm", "colocate", "--steps", "3"]
    words += ["--set", "per_device_train_batch_size=16", "--num-generations", "4", "--no-report", *lora]
    taken = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}  # by the engine in this process
    done = run("training.cli", *words, env={name: value for name, value in os.environ.items() if name not in taken})
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout.count("preflight: ") == 5
    assert "preflight: prompts are computed once a group" in done.stdout  # in the loss; vLLM samples
    assert ("vLLM is sent all weights, with the adapter merged into them" in done.stdout) == bool(lora)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert row["sampling/sampling_logp_difference/mean"] < 0.01
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=0.01)
