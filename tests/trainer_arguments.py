"""What becomes of every field of `TrainingArguments` under AdaMixTrainer. Run as a script, it writes the page.

Fields of transformers 4 and of 5 stand together: a version has some of them. A field that is in no group is an error.
"""

from __future__ import annotations

from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "trainer.md"
BEGIN, END = "<!-- arguments -->", "<!-- /arguments -->"

# (verdict, what becomes of it, names). The Trainer's own code reads what is "used"; the tests look that up.
GROUPS = [
    ("used", "learning, as the Trainer has it; a recipe may set it instead", """learning_rate weight_decay adam_epsilon
     max_grad_norm max_steps num_train_epochs seed"""),
    ("used", "task loss with smoothed labels, the consistency beside it; refused for numbers and several labels",
     "label_smoothing_factor"),
    ("used", "learning, as the Trainer has it",
     "optim optim_args adam_beta1 adam_beta2 adafactor"),
    ("used", "learning, as the Trainer has it", """lr_scheduler_type lr_scheduler_kwargs warmup_steps warmup_ratio
     per_device_train_batch_size per_gpu_train_batch_size auto_find_batch_size neftune_noise_alpha"""),
    ("used", "all pieces of a step have the same routes", "gradient_accumulation_steps"),
    ("used", "for a compute_loss_func that divides by the items of all processes", "average_tokens_across_devices"),
    ("used", "mixed precision; experts and head stay float32", """bf16 fp16 fp16_backend fp16_opt_level
     half_precision_backend tf32"""),
    ("used", "recomputed blocks see the routes of their first run", """activation_checkpointing
     activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs"""),
    ("used", "loading of data, as the Trainer has it", """dataloader_num_workers
     dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context
     dataloader_in_order data_seed ignore_data_skip"""),
    ("used", "the order of rows, as the Trainer has it", """dataloader_drop_last
     train_sampling_strategy group_by_length"""),
    ("used", "with the base model's own arguments and labels (of spans: start_positions, end_positions)",
     "remove_unused_columns label_names length_column_name"),
    ("used", "evaluation is the merge", """eval_strategy eval_steps eval_delay per_device_eval_batch_size
     per_gpu_eval_batch_size prediction_loss_only eval_on_start eval_do_concat_batches eval_use_gather_object
     eval_accumulation_steps include_for_metrics include_inputs_for_metrics batch_eval_metrics
     use_legacy_prediction_loop"""),
    ("used", "checkpoints hold what was trained, and the Trainer's own files", """output_dir overwrite_output_dir
     save_strategy save_steps save_total_limit save_on_each_node save_only_model enable_jit_checkpoint
     load_best_model_at_end metric_for_best_model greater_is_better restore_callback_states_from_checkpoint"""),
    ("used", "logs have task_loss and consistency, too", """logging_strategy logging_steps logging_first_step
     logging_dir logging_nan_inf_filter log_on_each_node log_level log_level_replica disable_tqdm report_to run_name
     project trackio_space_id trackio_bucket_id trackio_static_space_id include_num_input_tokens_seen
     include_tokens_per_second skip_memory_metrics"""),
    ("used", "processes and machines, as the Trainer has it; one process a GPU", """use_cpu no_cuda use_mps_device
     accelerator_config ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend
     ddp_timeout full_determinism torch_empty_cache_steps use_cache debug ray_scope tpu_metrics_debug"""),
    ("used", "by scripts and launchers; the Trainer itself does not read it", """do_train do_eval do_predict
     resume_from_checkpoint local_rank tpu_num_cores mp_parameters"""),
    ("refused", "call mixture.model.compile() before training", """torch_compile torch_compile_backend
     torch_compile_mode torchdynamo"""),
    ("refused", "its fused losses give no logits", "use_liger_kernel liger_kernel_config"),
    ("refused", "one process a GPU by torchrun or accelerate launch instead", """fsdp fsdp_config fsdp_min_num_params
     fsdp_transformer_layer_cls_to_wrap deepspeed parallelism_config _n_gpu"""),
    ("refused", "bf16 or fp16 instead: what trains stays float32", "bf16_full_eval fp16_full_eval"),
    ("refused", "the layers that it names are frozen", "optim_target_modules"),
    ("refused", "adamix_lab.push_to_hub after training instead", """push_to_hub hub_model_id hub_token
     hub_private_repo hub_strategy hub_always_push hub_revision push_to_hub_model_id push_to_hub_organization
     push_to_hub_token"""),
    ("refused", "weights are always safetensors", "save_safetensors"),
    ("refused", "no use for a mixture", "jit_mode_eval past_index"),
    ("refused", "use AdaMixSeq2SeqTrainer", "predict_with_generate"),
]  # fmt: skip
FIELDS = {name: (verdict, what) for verdict, what, names in GROUPS for name in names.split()}


def page() -> str:
    """The documentation with its table renewed."""
    rows = [f"| `{name}` | {verdict} | {what} |" for name, (verdict, what) in sorted(FIELDS.items())]
    text = PAGE.read_text("utf-8")
    start, stop = text.index(BEGIN) + len(BEGIN), text.index(END)
    table = "\n".join(["| argument | | what becomes of it |", "|---|---|---|", *rows])
    return f"{text[:start]}\n\n{table}\n\n{text[stop:]}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
