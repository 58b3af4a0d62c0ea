"""Settings of TRL that another setting makes void, which neither TRL 1.16 nor transformers 5.17 says.

Found by reading `trl/trainer/grpo_trainer.py` and `sft_trainer.py`, `transformers/optimization.py` and `trainer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Settings = Mapping[str, Any]
Rule = tuple[tuple[str, ...], Callable[[Settings], bool], str]
"""Names of settings, whether they change nothing beside all others, and what to do about it."""

CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")  # losses with PPO's clipping
NO_BETAS = ("sgd", "adafactor", "adagrad", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit")
COLOCATED = (
    "vllm_gpu_memory_utilization",
    "vllm_max_model_length",
    "vllm_tensor_parallel_size",
    "vllm_enable_sleep_mode",
    "vllm_model_impl",
)
ADDRESS = ("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_group_port")
CORRECTION = (
    "vllm_importance_sampling_mode",
    "vllm_importance_sampling_cap",
    "vllm_importance_sampling_clip_max",
    "vllm_importance_sampling_clip_min",
)


def _always(_: Settings) -> bool:
    return True


def _used_once(s: Settings) -> bool:
    """Whether each batch is used for one step: all ratios of probabilities are 1, but for what LoRA drops out."""
    more = s["num_iterations"] > 1 or s["steps_per_generation"] or s["generation_batch_size"] or s["lora"]
    return not more and s["loss_type"] in CLIPPED


BOTH: list[Rule] = [
    (("warmup_steps",), lambda s: s["lr_scheduler_type"] == "constant", "use lr_scheduler_type=constant_with_warmup"),
    (
        ("lr_scheduler_kwargs",),
        lambda s: s["lr_scheduler_type"] in ("constant", "constant_with_warmup"),
        "choose another lr_scheduler_type",
    ),
    (
        ("adam_beta1", "adam_beta2", "adam_epsilon"),
        lambda s: s["optim"] in NO_BETAS,
        "choose an optim that is a kind of Adam",
    ),
    (("gradient_checkpointing_kwargs",), lambda s: not s["gradient_checkpointing"], "set gradient_checkpointing=true"),
    (("liger_kernel_config",), lambda s: not s["use_liger_kernel"], "set use_liger_kernel=true"),
    (
        ("dataloader_persistent_workers", "dataloader_multiprocessing_context"),
        lambda s: not s["dataloader_num_workers"],
        "set dataloader_num_workers",
    ),
    (
        ("run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        lambda s: s["report_to"] in (None, "none", []),
        "name a tracker with --report-to",
    ),
    (("disable_tqdm",), _always, "the progress bar is r1vlm's own"),
]
RULES: dict[str, list[Rule]] = {
    "cold_start": [
        *BOTH,
        (("eval_steps",), _always, "validation is scored with rewards, in GRPO"),
        (
            (
                *("packing", "packing_strategy", "eval_packing", "padding_free", "assistant_only_loss"),
                *("dataset_text_field", "dataset_num_proc", "dataset_kwargs"),
            ),
            _always,
            "TRL has it for datasets without images",
        ),
        (("truncation_mode",), _always, "no trace is cut off"),
        (("label_smoothing_factor",), lambda s: s["loss_type"] == "dft", "use loss_type=nll"),
        (("length_column_name",), lambda s: s["train_sampling_strategy"] in ("random", "sequential"), "leave it out"),
    ],
    "grpo": [
        *BOTH,
        (("epsilon",), lambda s: s["loss_type"] in ("sapo", "vespo"), "choose another loss_type"),
        (
            ("epsilon",),
            lambda s: s["loss_type"] == "cispo" and s["epsilon_high"] is not None,
            "CISPO clips at epsilon_high alone",
        ),
        (("epsilon_high",), lambda s: s["loss_type"] in ("sapo", "vespo"), "choose another loss_type"),
        (("delta",), lambda s: s["loss_type"] not in CLIPPED, f"use loss_type={' or '.join(CLIPPED)}"),
        (("epsilon", "epsilon_high", "delta"), _used_once, "raise num_iterations or steps_per_generation"),
        (
            ("sapo_temperature_neg", "sapo_temperature_pos"),
            lambda s: s["loss_type"] != "sapo",
            "use loss_type=sapo",
        ),
        (
            ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg"),
            lambda s: s["loss_type"] != "vespo",
            "use loss_type=vespo",
        ),
        (("importance_sampling_level",), lambda s: s["loss_type"] == "vespo", "VESPO has weights of its own"),
        (
            ("ref_model_mixup_alpha", "ref_model_sync_steps"),
            lambda s: not s["sync_ref_model"],
            "set sync_ref_model=true",
        ),
        (("sync_ref_model", "use_bias_correction_kl"), lambda s: not s["beta"], "set beta above 0"),
        (
            ("sync_ref_model",),
            lambda s: bool(s["lora"]),
            "with lora the reference is the model without its adapter",
        ),
        (
            ("entropy_coef_min", "entropy_coef_max", "entropy_coef_delta", "entropy_target"),
            lambda s: not s["use_adaptive_entropy"],
            "set use_adaptive_entropy=true",
        ),
        (
            ("scale_rewards",),
            lambda s: s["multi_objective_aggregation"] == "normalize_then_sum",
            "use multi_objective_aggregation=sum_then_normalize",
        ),
        (
            ("num_completions_to_print", "log_unique_prompts", "log_multimodal"),
            lambda s: not s["log_completions"],
            "set log_completions=true",
        ),
        (("label_smoothing_factor",), _always, "GRPO has no labels"),
        (("train_sampling_strategy", "length_column_name"), _always, "use --curriculum"),
        (("shuffle_dataset",), lambda s: s["curriculum"] in ("difficulty", "pool"), "use --curriculum none"),
        (("shuffle_dataset",), lambda s: bool(s["dynamic_sampling"]), "use dynamic_sampling=false"),
        (
            (
                *("use_transformers_continuous_batching", "use_transformers_paged"),
                "transformers_continuous_batching_config",
            ),
            _always,
            "TRL has it for models of text alone: use --vllm",
        ),
        (
            ("vllm_importance_sampling_clip_max",),
            lambda s: s["vllm_importance_sampling_cap"] is not None,
            "leave vllm_importance_sampling_cap out, which is its older name",
        ),
        (
            CORRECTION,
            lambda s: not s["vllm_importance_sampling_correction"],
            "set vllm_importance_sampling_correction=true",
        ),
    ],
}
GENERATION: list[Rule] = [  # where a plan of r1vlm-train has decided how completions are sampled
    (("use_vllm", "vllm_mode"), _always, "use --vllm"),
    (
        (
            *("vllm_importance_sampling_correction", *CORRECTION),
            *("vllm_structured_outputs_regex", "vllm_server_timeout", *COLOCATED),
        ),
        lambda s: not s["use_vllm"],
        "use --vllm colocate or --vllm server",
    ),
    (ADDRESS, _always, "r1vlm-train starts the server itself"),
    (COLOCATED, lambda s: s["vllm_mode"] == "server", "use --vllm colocate"),
    (("vllm_server_timeout",), lambda s: s["vllm_mode"] == "colocate", "use --vllm server"),
    (("cache_implementation",), lambda s: s["use_vllm"], "use --vllm off"),
]


def find_void(rules: list[Rule], given: Settings, without: Settings, settings: Settings) -> str | None:
    """A sentence about the first setting in `given` that changes nothing; None where there is none.

    `settings` are all of the stage, `without` the same where the user gives none: a value that is theirs is no wish.
    """
    for names, is_void, advice in rules:
        for name in names:
            if name in given and given[name] != without.get(name) and is_void(settings):
                return f"{name} changes nothing beside the other settings: {advice}, or leave it out"
    return None
