"""Presets that real accelerate and TRL accept, memory that agrees with what is publicly known, and golden plans."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.shared_prefix import make_large
from datagen.common.errors import UserError
from training.config import EXTRA_SETTINGS, RunConfig, resolve_settings
from training.launch import memory, planner, presets
from training.launch.launch_config import check_move, hardware_record, launched_words
from training.launch.memory import GIB, Workload, built_in, predict, shape_of
from training.launch.plan_rendering import presets_table, render_plan, slurm_script
from training.launch.planner import LaunchPlan, Machine, PlanRequest, QuestionSize, check_fits, make_plan
from training.launch.presets import GPU, PRESETS, Batch, Preset, find_preset, fit_batch, rank_presets
from training.models import DEFAULT_MODEL, SMALL, model_folder

FAKES = {  # of Slurm: srun runs a task here
    "scontrol": '#!/bin/bash\nprintf "n1\\nn2\\nn3\\nn4\\n"\n',
    "srun": (
        '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nSLURM_PROCID=2 "$@"\n'
        "if [[ $3 == *vllm* ]]; then exec sleep 60; fi\n"
    ),
}
GOLDEN = Path(__file__).parent / "golden"
DIGITS = QuestionSize(width=84, height=84, prompt=250, solution=106)
MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"


def asked(model: str = MODEL, **settings: Any) -> PlanRequest:
    recipe = resolve_settings("default", "grpo")
    return PlanRequest(model, built_in()[model], recipe | settings, DIGITS, ["digits"], Path("runs/digits"))


def planned(preset: str, gib: float, model: str = MODEL, **settings: Any) -> LaunchPlan:
    return make_plan(asked(model, **settings), PRESETS[preset], Machine(int(gib * GIB), cores=48))


def text(preset: str) -> str:
    """What --dry-run prints on GPUs of 80 GiB, and what is said of 24 GiB; the paths are those of any machine."""
    if preset == "cpu":
        return render_plan(make_plan(asked(bf16=False), PRESETS["cpu"], Machine(None)), "asked for") + "\n"
    made = planned(preset, 80)
    shown = render_plan(made, "asked for") + ("\n\n" + slurm_script(made) if made.preset.nodes > 1 else "")
    shown = shown.replace(str(presets.FOLDER), "ACCELERATE")
    return f"{shown}\n\n{says(made, 80)}\n{says(planned(preset, 24), 24)}\n"


def says(made: LaunchPlan, gib: int) -> str:
    try:
        check_fits(made)
    except UserError as error:
        return f"on {gib} GiB: refused: {error}"
    return f"on {gib} GiB: accepted"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_plan_of_a_preset_is_the_golden_one(preset: str) -> None:
    assert text(preset) == (GOLDEN / f"{preset}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", [preset for preset in PRESETS.values() if preset.accelerate], ids=lambda p: p.name)
def test_every_accelerate_file_loads_and_says_what_its_preset_says(preset: Preset) -> None:
    config = load_config_from_file(str(preset.accelerate_file))
    kinds = {"none": DistributedType.NO, "fsdp2": DistributedType.FSDP}
    assert config.distributed_type == kinds.get(preset.sharding, DistributedType.DEEPSPEED)
    assert config.mixed_precision == "bf16"
    if preset.sharding.startswith("zero"):
        assert config.deepspeed_config["zero_stage"] == int(preset.sharding[-1])
        assert (config.deepspeed_config["offload_optimizer_device"] == "cpu") == preset.offload_optimizer
    if preset.sharding == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2


@pytest.mark.parametrize("preset", PRESETS)
def test_trl_accepts_the_settings_of_every_preset(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import GRPOConfig

    made = planned(preset, 80)
    # TRL counts the processes that there are; the rule it checks is that of one process with as many completions
    settings = made.request.settings | made.settings | {"bf16": False}
    settings = {name: value for name, value in settings.items() if name not in EXTRA_SETTINGS["grpo"]}
    settings["per_device_train_batch_size"] *= made.preset.processes
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    config = GRPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings)
    assert config.generation_batch_size == made.batch.completions
    assert config.generation_batch_size % config.num_generations == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"generation_gpus": 0},
        {"train_gpus": 1},
        {"sharding": "none"},
        {"accelerate": None},
        {"micro_batch": 0},
        {"generation": "colocate"},
        {"sharding": "fsdp2", "offload_optimizer": True},
        {"generation": "colocate", "generation_gpus": 0, "nodes": 2},
    ],
)
def test_a_preset_that_can_not_be_is_refused_when_it_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="preset 4gpu-zero3"):
        replace(PRESETS["4gpu-zero3"], **wrong)


@given(
    generations=st.integers(2, 24),
    device=st.integers(1, 32),
    steps=st.integers(1, 16),
    preset=st.sampled_from(list(PRESETS.values())),
)
def test_the_batch_keeps_trls_rule_on_any_hardware(generations: int, device: int, steps: int, preset: Preset) -> None:
    settings = {
        "num_generations": generations,
        "per_device_train_batch_size": device,
        "gradient_accumulation_steps": steps,
    }
    batch = fit_batch(settings, preset)
    assert batch.completions % generations == 0
    assert batch.per_device <= max(device, 1)
    assert batch.per_device <= preset.micro_batch
    if device * steps * preset.processes % generations:
        with pytest.raises(UserError, match="no multiple of num_generations"):
            fit_batch(settings, preset, fixed=True)
    else:
        assert fit_batch(settings, preset, fixed=True).completions == device * steps * preset.processes
    try:
        assert fit_batch(settings, preset, completions=batch.completions).completions == batch.completions
    except UserError:
        assert batch.completions % preset.processes


def test_the_setting_of_the_first_report_stays_as_it_is() -> None:
    settings = {"num_generations": 15, "per_device_train_batch_size": 5, "gradient_accumulation_steps": 4}
    assert fit_batch(settings, PRESETS["4gpu"], fixed=True) == presets.Batch(5, 4, 3)
    with pytest.raises(UserError, match="multiple of 3, or num_generations to 2, 4, 5, 10, 20"):
        fit_batch(settings, PRESETS["1gpu"], fixed=True)


@pytest.mark.parametrize("name", built_in())
def test_built_in_shapes_are_those_of_the_published_weights(name: str) -> None:
    """The numbers of parameters are those that the Hub shows for the weights; transformers counts the same."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    known = json.loads((Path(memory.__file__).parent / "shapes.json").read_text(encoding="utf-8"))[name]
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(AutoConfig.for_model(**known["config"]))
    assert sum(weight.numel() for weight in network.parameters()) == known["parameters"]
    seeing = network.get_encoder(modality="image")
    assert sum(weight.numel() for weight in seeing.parameters()) == known["vision_parameters"]
    assert network.get_input_embeddings().weight.numel() == known["embedding"]
    published = {
        "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
        "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
        "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
        "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
        "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
        "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct": 2_246_784_880,
    }
    assert known["parameters"] == published[name]
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    language = network.model.get_decoder().named_parameters()
    weights = [weight for name, weight in language if name.split(".")[-2] in linear and weight.ndim == 2]
    assert built_in()[name].adapters(16, vision=False) == sum(16 * sum(weight.shape) for weight in weights)


@pytest.mark.parametrize("name", SMALL)
def test_the_shape_of_a_small_model_is_that_of_its_folder(name: str) -> None:
    assert replace(shape_of(str(model_folder(name))), name=name, config={}) == replace(shape_of(name), config={})


# What is publicly reported of GRPO with float32 optimizer states, as trained here:
# - EasyR1 (https://github.com/hiyouga/EasyR1, "Hardware Requirements", GRPO): all weights in mixed precision (AMP)
#   3B on 4 x 40 GB and 7B on 8 x 40 GB; LoRA (AMP) of 3B on 1 x 24 GB. For 3B on one GPU it drops the float32 states.
# - TRL's own account of colocated vLLM that sleeps (https://huggingface.co/blog/vllm-colocate): generation and
#   training take turns on the same GPUs.
# - VLM-R1 #17 (https://github.com/om-ai-lab/VLM-R1/issues/17): Qwen2.5-VL-3B needs 80 GB rather than 40 GB where
#   nothing is sharded; LoRA otherwise.
LORA = {"lora": {"r": 16}}


@pytest.mark.parametrize(
    ("preset", "gib", "model", "settings", "fits"),
    [
        ("1gpu", 24, MODEL, {}, False),
        ("1gpu", 24, MODEL, LORA, True),
        ("1gpu", 40, MODEL, {}, False),
        ("1gpu", 80, MODEL, {}, True),
        ("1gpu", 80, MODEL, LORA, True),
        ("4gpu", 80, MODEL, {}, True),
        ("4gpu-zero3", 80, MODEL, {}, True),
        ("4gpu-zero3", 40, MODEL, {}, True),
        ("4gpu-fsdp2", 40, MODEL, {}, True),
        ("1gpu", 80, "Qwen/Qwen2.5-VL-7B-Instruct", {}, False),
        ("8gpu-fsdp2", 40, "Qwen/Qwen2.5-VL-7B-Instruct", {}, True),
        ("1gpu", 24, "Qwen/Qwen2.5-VL-7B-Instruct", LORA, False),
    ],
)
def test_what_fits_is_what_is_reported_to_fit(
    preset: str, gib: int, model: str, settings: dict[str, Any], fits: bool
) -> None:
    assert planned(preset, gib, model, **settings).fits == fits


def test_a_refusal_names_what_would_do() -> None:
    with pytest.raises(UserError, match=r"use --hardware 4gpu, or train LoRA adapters"):
        check_fits(planned("1gpu", 24))
    with pytest.raises(UserError, match="use --hardware 8gpu-colocate"):
        check_fits(planned("8gpu", 24))
    with pytest.raises(UserError, match="of the GPU that generates"):
        check_fits(planned("multinode", 20, "Qwen/Qwen2.5-VL-7B-Instruct"))
    named = says(planned("1gpu", 24), 24).partition("use --hardware ")[2].split(",")[0]
    assert planned(named, 24).fits
    small = Machine(80 * GIB, host=64 * GIB)
    with pytest.raises(UserError, match="150 GiB of host memory, and there are 64 GiB"):
        check_fits(make_plan(asked(), PRESETS["4gpu"], small))


@given(
    model=st.sampled_from(list(built_in())),
    preset=st.sampled_from([preset for preset in PRESETS if preset != "cpu" and "fsdp2" not in preset]),
    lora=st.booleans(),
    longer=st.integers(1, 2000),
)
def test_memory_grows_with_what_is_asked(model: str, preset: str, lora: bool, longer: int) -> None:
    settings = LORA if lora else {}
    short = planned(preset, 80, model, max_completion_length=256, **settings)
    long = planned(preset, 80, model, max_completion_length=256 + longer, **settings)
    frozen = planned(preset, 80, model, max_completion_length=256, freeze_vision=True, **settings)
    whole = planned(preset, 80, model, max_completion_length=256, gradient_checkpointing=False, **settings)
    assert short.memory.peak <= long.memory.peak
    assert frozen.memory.peak <= short.memory.peak <= whole.memory.peak
    assert all(size >= 0 for parts in (short.memory.step, short.memory.sampling) for size in parts.values())
    if lora and PRESETS[preset].sharding != "zero3":  # which puts the whole model together to merge adapters
        assert short.memory.peak < planned(preset, 80, model, max_completion_length=256).memory.peak


@pytest.mark.parametrize(
    ("frozen", "completion", "plain", "shared"),
    [(False, 64, 3465, 1005), (False, 256, 4320, 2028), (True, 64, 2069, 790), (True, 256, 2885, 1803)],
)
def test_shared_prompts_take_the_memory_that_was_measured(
    frozen: bool, completion: int, plain: int, shared: int, tmp_path: Path
) -> None:
    """In MiB, as `python -m benchmarks.shared_prefix` found it on a CPU (benchmarks/RESULTS.md)."""
    model = shape_of(str(make_large(tmp_path)))
    work = Workload(Batch(8, 1, 1), 300, completion, 784, bf16=False, checkpointing=False, freeze_vision=frozen)
    for share, measured in ((False, plain), (True, shared)):
        parts = predict(model, replace(work, shared=share), PRESETS["cpu"], None).host
        found = sum(parts[name] for name in ("activations", "logits", "gradients")) / 2**20
        assert found == pytest.approx(measured, rel=0.25, abs=250), share


@given(rows=st.integers(1, 40), group=st.integers(2, 16), first=st.integers(0, 15), shared=st.booleans())
def test_no_micro_batch_has_more_prompts_than_are_counted(rows: int, group: int, first: int, shared: bool) -> None:
    work = Workload(Batch(rows, 1, 1), 10, 1, 1, shared=shared, generations=group)
    whole = rows % group == 0 or group % rows == 0
    start = first * rows if whole else first  # as micro-batches follow one another
    there = len({row // group for row in range(start, start + rows)})
    assert there <= work.prompts <= rows
    if whole or not shared:
        assert work.prompts == (there if shared else rows)


def test_a_plan_shares_prompts_where_the_run_does() -> None:
    plain = planned("2gpu", 80, shared_prefix=False)
    assert planned("2gpu", 80).memory.step["activations"] < plain.memory.step["activations"]
    other = replace(asked(), shape=replace(built_in()[MODEL], config={**built_in()[MODEL].config, "model_type": "new"}))
    assert not make_plan(other, PRESETS["2gpu"], Machine(80 * GIB)).work.shared


def test_the_states_of_the_optimisation_are_those_of_the_papers() -> None:
    """16 bytes a parameter where nothing is split: 4 of weights, 4 of gradients, 8 of Adam (ZeRO, section 3.1)."""
    three = built_in()[MODEL]
    work = planned("2gpu", 80).work
    states = predict(three, work, PRESETS["2gpu"], 80 * GIB).step
    assert sum(states[name] for name in ("weights", "gradients", "optimizer")) == 16 * three.parameters
    split = predict(three, work, PRESETS["8gpu-colocate"], 80 * GIB).step
    kept = sum(split[name] for name in ("weights", "gradients", "optimizer"))
    assert kept == pytest.approx((4 + 16) * three.parameters / 8)  # 2 + 2 in bfloat16, 4 + 4 + 8 in float32
    offloaded = predict(three, work, PRESETS["4gpu"], 80 * GIB)
    assert offloaded.step["optimizer"] == 0
    assert offloaded.host["optimizer"] == 24 * three.parameters


@pytest.mark.parametrize(
    ("preset", "settings", "models"),
    [
        ("4gpu-zero3", {}, 0),
        ("4gpu-zero3", LORA, 1),
        ("4gpu-zero3", {"beta": 0.001}, 0),
        ("4gpu-zero3", {"beta": 0.001, "sync_ref_model": True}, 2),
        ("4gpu", LORA, 0),
        ("4gpu", {"beta": 0.001, "sync_ref_model": True}, 0),
    ],
)
def test_zero3_puts_models_together_between_steps(preset: str, settings: dict[str, Any], models: int) -> None:
    made = planned(preset, 80, **settings)
    assert made.memory.sampling.get("gathered weights", 0.0) == models * 2 * built_in()[MODEL].parameters


def test_a_7b_with_adapters_is_refused_where_it_would_be_put_together() -> None:
    assert not planned("8gpu-colocate", 40, "Qwen/Qwen2.5-VL-7B-Instruct", **LORA).fits
    assert planned("8gpu-colocate", 48, "Qwen/Qwen2.5-VL-7B-Instruct", **LORA).fits


@pytest.mark.parametrize(
    ("preset", "settings", "bytes_each", "most"),
    [
        ("1gpu", {}, 12, 3),  # 4 of weights, 8 of Adam; two are kept, and one is written
        ("1gpu", {"save_total_limit": 1, "eval_steps": 50}, 12, 3),  # the best beside the last
        ("1gpu", {"max_steps": 50}, 12, 1),
        ("1gpu", {"max_steps": 40, "eval_steps": 10}, 12, 3),
        ("1gpu", {"max_steps": 40, "save_steps": 0.25}, 12, 3),
        ("1gpu", {"save_total_limit": None, "max_steps": 1000}, 12, 20),
        ("1gpu", {"save_total_limit": None, "max_steps": -1}, 12, float("inf")),
        ("1gpu", {"beta": 0.001, "sync_ref_model": True}, 16, 3),
        ("4gpu", {}, 16, 3),  # weights in bfloat16 twice, float32 ones and Adam's
        ("4gpu-zero3", {}, 14, 3),
        ("4gpu-fsdp2", {}, 16, 3),  # weights in float32 twice
    ],
)
def test_the_disk_that_checkpoints_take(preset: str, settings: dict[str, Any], bytes_each: int, most: float) -> None:
    room = planned(preset, 80, **settings).disk
    assert (room.checkpoint, room.most) == (bytes_each * built_in()[MODEL].parameters, most)


@pytest.mark.parametrize(
    ("count", "gib", "vllm", "nodes", "picked"),
    [
        (0, 0, True, 1, "cpu"),
        (1, 80, True, 1, "1gpu"),
        (2, 80, True, 1, "2gpu"),
        (3, 80, True, 1, "2gpu"),
        (4, 80, True, 1, "4gpu"),
        (8, 80, True, 1, "8gpu"),
        (8, 24, True, 1, "8gpu-colocate"),
        (8, 80, True, 5, "multinode"),
        (4, 80, False, 1, "1gpu"),
        (8, 15, True, 1, "4gpu"),  # all of them without offload do not fit
    ],
)
def test_auto_picks_by_what_there_is(count: int, gib: int, vllm: bool, nodes: int, picked: str) -> None:
    gpus = [GPU("GPU", gib * GIB)] * count
    machine = Machine(gib * GIB if count else None)
    made, why = planner.choose_plan(asked(), "auto", machine, gpus, nodes=nodes if nodes > 1 else None, vllm=vllm)
    assert made.preset.name == picked
    assert ("no GPU" if not count else f"{count} x GPU of {gib} GiB") in why or f"{nodes} machines" in why
    assert made.preset.nodes == nodes
    if not vllm:
        assert "use_vllm" not in made.settings


@pytest.mark.parametrize(
    ("count", "options", "picked"),
    [
        (8, {"generation": "colocate"}, "8gpu-colocate"),
        (4, {"generation": "colocate"}, "1gpu"),
        (2, {"generation": "transformers"}, "1gpu"),
        (2, {"generation": "server"}, "2gpu"),
        (4, {"deepspeed": False}, "4gpu-fsdp2"),
        (8, {"deepspeed": False}, "8gpu-fsdp2"),
        (8, {"vllm": False}, "8gpu-colocate"),
        (8, {"vllm": False, "deepspeed": False}, "1gpu"),
    ],
)
def test_auto_picks_what_can_do_it(count: int, options: dict[str, Any], picked: str) -> None:
    gpus = [GPU("GPU", 80 * GIB)] * count
    made, _ = planner.choose_plan(asked(), "auto", Machine(80 * GIB), gpus, **options)
    assert made.preset.name == picked
    if wanted := options.get("generation"):
        assert made.preset.generation == wanted


def test_what_no_hardware_here_can_do_is_refused() -> None:
    with pytest.raises(UserError, match="1gpu can't generate with server: use --hardware 2gpu or 4gpu"):
        planner.choose_plan(asked(), "auto", Machine(80 * GIB), [GPU("GPU", 80 * GIB)], generation="server")
    adapters = planner.choose_plan(
        asked(**LORA), "auto", Machine(80 * GIB), [GPU("GPU", 80 * GIB)] * 4, deepspeed=False
    )
    assert adapters[0].preset.name == "2gpu"  # FSDP2 can't


def test_what_is_launched_generates_as_the_plan_says_where_vllm_is_missing() -> None:
    eight = [GPU("GPU", 80 * GIB)] * 8
    made, why = planner.choose_plan(asked(), "auto", Machine(80 * GIB), eight, vllm=False)
    assert (made.preset.name, made.preset.generation) == ("8gpu-colocate", "transformers")
    assert "without vLLM" in why
    (trainer,) = made.jobs
    assert trainer.command[trainer.command.index("--vllm") + 1] == "off"
    assert "r1vlm-train digits --vllm off --hardware 1gpu" in render_plan(
        planner.choose_plan(asked(**LORA), "auto", Machine(80 * GIB), eight[:1], vllm=False)[0], ""
    )


def test_machines_where_there_is_one_are_refused() -> None:
    with pytest.raises(UserError, match="--nodes is for multinode, and 4 x GPU of 80 GiB is visible"):
        planner.choose_plan(asked(), "auto", Machine(80 * GIB), [GPU("GPU", 80 * GIB)] * 4, nodes=4)


def test_gpus_of_other_machines_do_not_have_the_names_of_this_ones() -> None:
    here = Machine(80 * GIB, devices=("GPU-5a",))
    for preset, expected in (("multinode", "0,1,2,3,4,5,6,7"), ("4gpu", "0,1,2"), ("1gpu", None)):
        jobs = make_plan(asked(), PRESETS[preset], here).jobs
        assert [job.environment["CUDA_VISIBLE_DEVICES"] for job in jobs[-1:]] == ([expected] if expected else [])


def test_a_shell_gives_back_what_the_user_wrote(tmp_path: Path) -> None:
    words = ["digits", "--set", 'lora={r: 16, target_modules: ".*_proj$"}', "--out", "it's $HOME/`x` runs"]
    made = make_plan(replace(asked(), words=words, out=Path(words[-1])), PRESETS["multinode"], Machine(80 * GIB))
    for command in ("srun", "curl", "scontrol", "accelerate", "vllm"):
        (tmp_path / command).write_text(FAKES.get(command, '#!/bin/bash\nprintf "%s\\n" "$@" > "$HERE/${0##*/}.txt"\n'))
        (tmp_path / command).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HERE": str(tmp_path), "SLURM_JOB_NODELIST": "n[1-4]"}
    done = subprocess.run(
        ["bash", "-c", slurm_script(made)], check=False, env=environment, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    given = (tmp_path / "accelerate.txt").read_text().splitlines()
    assert given[given.index("training.cli") + 1 :][: len(words)] == words
    assert [given[given.index(f"--{name}") + 1] for name in ("machine_rank", "main_process_ip")] == ["2", "n2"]
    assert "n1" in (tmp_path / "vllm.txt").read_text().splitlines()


def test_a_process_that_trains_alone_sees_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, count, left in ((None, 1, "0"), ("3,1", 1, "3"), ("GPU-11,GPU-22", 1, "GPU-11"), ("3,1", 0, "")):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        presets.restrict_gpus(count)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == left


def test_the_precision_asked_for_is_the_launched_processes_too() -> None:
    for wanted, said in ((True, "bf16"), (False, "no")):
        command = planned("4gpu", 80, bf16=wanted).jobs[-1].command
        assert command[command.index("--mixed_precision") + 1] == said


def test_gpus_are_those_that_cuda_visible_devices_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\nfor i in 0 1 2; do echo "$i, GPU-$i$i, $((81000 + i)), NVIDIA H100 80GB HBM3"; done\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for visible, left in (("2,0", [81002, 81000]), ("GPU-11", [81001]), ("", []), (None, [81000, 81001, 81002])):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [gpu.memory // 2**20 for gpu in presets.visible_gpus()] == left
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert presets.visible_gpus() == []
    smi.write_text(
        "#!/bin/sh\necho 0, GPU-00, [N/A], NVIDIA GB10\n"
    )  # it shares the host's memory: torch knows how much
    monkeypatch.setattr(presets, "_gpus_of_torch", lambda: [GPU("NVIDIA GB10", 119 * GIB)])
    assert presets.visible_gpus() == [GPU("NVIDIA GB10", 119 * GIB)]


def test_what_trl_can_not_do_is_refused() -> None:
    with pytest.raises(UserError, match="no LoRA adapters to vLLM from FSDP2"):
        planned("4gpu-fsdp2", 80, **LORA)
    with pytest.raises(UserError, match="a reference model of zeros"):
        planned("4gpu-fsdp2", 80, beta=0.001)


def test_names_and_machines_are_checked() -> None:
    with pytest.raises(UserError, match="did you mean '4gpu'"):
        find_preset("4gp")
    with pytest.raises(UserError, match="--nodes is for multinode"):
        find_preset("4gpu", 3)
    assert find_preset("multinode", 9).processes == 64
    assert [preset.nodes for preset in rank_presets([GPU("GPU", 1)] * 8, 2)[0]] == [2, 2]


@pytest.mark.parametrize(
    ("was", "now", "fine"),
    [
        ("1gpu", "2gpu", True),
        ("2gpu", "cpu", True),
        ("4gpu", "4gpu", True),
        ("4gpu-fsdp2", "8gpu-fsdp2", True),
        ("4gpu", "8gpu", False),
        ("4gpu", "4gpu-zero3", False),
        ("8gpu", "1gpu", False),
    ],
)
def test_a_run_goes_on_where_its_optimizer_can_be_read(was: str, now: str, fine: bool, tmp_path: Path) -> None:
    noted, wanted = (hardware_record(planned(preset, 80)) for preset in (was, now))
    (tmp_path / "run.json").write_text(json.dumps({"hardware": noted}))
    check_move(tmp_path, wanted)  # no checkpoint, nothing to read
    (tmp_path / "checkpoint-2").symlink_to(model_folder("small"))
    if fine:
        check_move(tmp_path, wanted)
        return
    with pytest.raises(UserError, match=f"--hardware {was}"):
        check_move(tmp_path, wanted)


def test_a_run_keeps_its_completions_on_other_hardware() -> None:
    first = planned("4gpu", 80)
    moved = make_plan(
        replace(asked(), completions=first.batch.completions), PRESETS["8gpu-colocate"], Machine(80 * GIB)
    )
    assert moved.batch.completions == first.batch.completions == 96
    with pytest.raises(UserError, match="96 completions a step, which 7 training processes can't share"):
        make_plan(replace(asked(), completions=96), PRESETS["8gpu"], Machine(80 * GIB))


def test_the_trainers_command_says_where_it_runs_once() -> None:
    config = RunConfig(task="digits", hardware="8gpu", steps=3, nodes=4, gpu_memory=24, resume=True)
    assert launched_words(config) == ["digits", "--resume", "--steps", "3"]


def write_golden() -> None:
    """Write the golden plans anew and print the table of presets:  python -m tests.training.test_hardware."""
    GOLDEN.mkdir(exist_ok=True)
    for preset in PRESETS:
        (GOLDEN / f"{preset}.txt").write_text(text(preset), encoding="utf-8")


if __name__ == "__main__":
    write_golden()
    print(presets_table(DEFAULT_MODEL))
