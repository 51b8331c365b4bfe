"""The recipe: one YAML file says everything about a run.

    recipe.yaml --load_recipe--> Recipe (frozen, validated) --dump_recipe--> the same YAML

One schema owns every name, default, limit, unit and help text: forms, docs, presets and the command line derive from
it.  The docstring under a field is its tooltip.  Reading, writing and overriding live in `engine.contract.recipe_io`.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from engine.contract.recipe_base import Count, MisplacedValue, Number, Section
from engine.contract.recipe_evaluate import EvaluateSection
from engine.contract.recipe_launch import LaunchSection

SCHEMA_VERSION = 1
TASK_NAME = re.compile(r"[^\W_A-Z\u200c\u200d]([^\WA-Z\u200c\u200d]|[.-]){0,63}")
"""Task names appear in metric keys, file names and legends: lower-case slugs of any script, no invisible signs."""


class ColumnsSection(Section):
    """What the columns of a file mean, where their names do not say it: `messages`, `text` or a pair of columns."""

    messages: str | None = Field(None, min_length=1, max_length=256)
    """Column that holds the list of turns of a conversation."""
    text: str | None = Field(None, min_length=1, max_length=256)
    """Column of plain text that is trained as it stands, without a prompt."""
    prompt: str | None = Field(None, min_length=1, max_length=256)
    """Column of what the user says. Needs `completion`."""
    completion: str | None = Field(None, min_length=1, max_length=256)
    """Column of what the model shall answer. Needs `prompt`."""
    system: str | None = Field(None, min_length=1, max_length=256)
    """Column of the system text, only beside `prompt` and `completion`. An empty cell means none."""

    @model_validator(mode="after")
    def _one_way_to_read(self) -> ColumnsSection:
        named = self.named()
        ways = [way for way in ("messages", "text", "prompt") if way in named]
        if "completion" in named and "prompt" not in named:
            raise MisplacedValue("columns names a `completion` but no `prompt`: name the column of both", "prompt")
        if not ways:
            raise ValueError(
                "columns is empty: name the column of `messages`, of `text`, or of `prompt` and `completion`"
            )
        if len(ways) > 1:
            both = " and ".join(f"`{way}`" for way in ways)
            raise MisplacedValue(f"columns names {both}: only one of messages, text, prompt can be read", ways[-1])
        if "prompt" in named and "completion" not in named:
            raise MisplacedValue("columns names a `prompt` but no `completion`: name the column of both", "completion")
        if "system" in named and "prompt" not in named:
            raise MisplacedValue("columns names `system`, which only stands beside prompt and completion", "system")
        return self

    def named(self) -> dict[str, str]:
        """Return {role: column} of the columns that are named."""
        roles = ("messages", "text", "prompt", "completion", "system")
        return {role: name for role in roles if (name := getattr(self, role)) is not None}


class TaskSection(Section):
    """One task: a data file and how much it counts."""

    name: str = Field(min_length=1, max_length=64, pattern=f"^{TASK_NAME.pattern}$")
    """Short lower-case name: letters of any script, digits, `.`, `_`, `-`. It labels curves, metrics and files."""
    path: str = Field(min_length=1, max_length=4096)
    """Training examples: a file, a folder of files, or a data set on a hub as `hf://org/name?config=...&split=train`
    or `modelscope://org/name`. A relative path is looked up beside the recipe."""
    eval_path: str | None = Field(None, max_length=4096)
    """Held-out examples. Without it `data.eval_split` of the training file is held out."""
    weight: Number = Field(1.0, ge=0, le=1000)
    """How much the task counts in the loss, relative to the other tasks. 0 = evaluated only."""
    max_samples: Count | None = Field(None, ge=1)
    """Use at most this many examples, chosen with the seed. Empty = all."""
    mixing_weight: Number = Field(1.0, ge=0, le=1_000_000)
    """How often the task is seen, relative to the others, when `mixing.strategy` is `custom`."""
    max_epochs: Number | None = Field(None, gt=0, le=1000)
    """See the task's examples at most this often; what it cannot take goes to the other tasks. Empty = no limit."""
    columns: ColumnsSection | None = None
    """What the columns mean, for files whose column names are not known. Empty = known names are recognized."""


class ModelSection(Section):
    """How the base model is loaded."""

    revision: str | None = Field(None, max_length=128)
    """Branch, tag or commit on the Hugging Face hub. Empty = the default branch."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Number format of the frozen weights. `auto` = bfloat16 where the device computes it natively, else float32."""
    attn_implementation: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Attention kernel. `auto` = sdpa where the architecture supports it, else eager."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, far less memory."""
    torch_compile: bool = False
    """Compile the model with torch.compile: minutes at the start, then faster steps on many GPUs."""


class LoraSection(Section):
    """The low-rank adapter; names follow `peft.LoraConfig`. Ignored when `method` is `full`."""

    r: Count = Field(16, ge=1, le=1024)
    """Rank of the adapter."""
    lora_alpha: Number = Field(32.0, gt=0, le=4096)
    """Scale of the adapter: its output is multiplied by lora_alpha / r."""
    lora_dropout: Number = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which linear layers get an adapter: `all-linear` (all but the output head) or a list of layer names."""
    target_experts: bool = False
    """Also adapt the fused experts of a mixture-of-experts model, which are most of its weights; the router never is.
    Needs `lora_dropout` 0; not with DoRA or a 4-bit base."""
    use_rslora: bool = False
    """Scale by lora_alpha / sqrt(r) instead of lora_alpha / r, so that large ranks learn too (rsLoRA)."""
    use_dora: bool = False
    """Learn the size of every weight vector apart from its direction (DoRA): slower, often better at low ranks."""
    loraplus_lr_ratio: Number | None = Field(None, ge=1, le=1000)
    """LoRA+: the adapter's B matrices learn this many times faster than A; 16 is typical. Empty = the same."""

    @model_validator(mode="after")
    def _experts_take_plain_lora(self) -> LoraSection:
        if self.target_experts and self.lora_dropout:
            raise MisplacedValue(
                "experts take no dropout: set lora_dropout to 0 or target_experts to false", "lora_dropout"
            )
        if self.target_experts and self.use_dora:
            raise MisplacedValue("experts take no DoRA: set use_dora or target_experts to false", "use_dora")
        return self


class DataSection(Section):
    """From examples to tokens."""

    max_length: Count = Field(1024, ge=16, le=1_048_576)
    """Longest example in tokens, template included, and the size of a pack. Longer ones are handled by `truncation`."""
    truncation: Literal["drop", "truncate", "split"] = "drop"
    """`drop` leaves out examples that are too long and counts them; `truncate` cuts off their end; `split` makes
    several rows of them."""
    packing: Literal["padding_free", "bfd", "padding", "length_grouped"] = "padding_free"
    """`padding_free` lays the examples of a batch side by side, isolated, without padding; `bfd` first packs the
    examples of each task into rows of `max_length` (best-fit decreasing), so that every row costs the same; `padding`
    pads a batch to its longest example; `length_grouped` does so with examples of similar length."""
    chat_template: str = Field("auto", min_length=1, max_length=4096)
    """`auto` = the model's own, else MFTCoder's role markers; `model`; `mftcoder`; or the path of a Jinja file."""
    assistant_turns: Literal["all", "last"] = "all"
    """Which answers of a conversation carry loss: all of them, or only the last."""
    eval_split: Number = Field(0.05, ge=0, lt=1)
    """Share of a task's examples that is held out when it has no `eval_path`. At least one example if above 0."""
    max_eval_samples: Count | None = Field(64, ge=1)
    """Evaluate on at most this many held-out examples per task. Empty = all."""
    data_seed: Count | None = Field(None, ge=0, lt=2**32)
    """Seed of the order of the examples. Empty = `seed`. What is held out always follows `seed`."""


class MixingSection(Section):
    """How often each task is seen."""

    strategy: Literal["natural", "equal", "square_root", "temperature", "custom"] = "natural"
    """`natural` = by size; `equal` = every task the same; `square_root` between the two; `temperature` = size to the
    power of 1 / `temperature`; `custom` = by each task's `mixing_weight`."""
    temperature: Number = Field(2.0, ge=1, le=1000)
    """For the strategy `temperature`: 1 is natural, 2 is square_root, large values approach equal."""


class LossSection(Section):
    """How the tasks are combined into one loss."""

    reduction: Literal["task_mean", "task_sample_mean", "token_mean", "sample_mean"] = "task_mean"
    """`task_mean`: every task's mean token loss counts by its weight, exact over the whole optimizer step.
    `task_sample_mean`: its mean example loss does. `token_mean`, `sample_mean`: every supervised token, or every
    example, counts the same and task weights are not used."""
    estimator: Literal["dataset", "global_batch"] = "dataset"
    """What the loss is divided by: the tokens or examples a step is expected to hold (`dataset`: a rare task has its
    whole share), or those that it really holds (`global_batch`: its share goes to the others where it is absent)."""
    focal: Literal["none", "sample", "task"] = "none"
    """Let what is predicted well already count less, by (1 - mean token probability) to the power of `focal_gamma`: of
    each example (`sample`; task weights are its alpha), or of each task over recent steps (`task`)."""
    focal_gamma: Number = Field(2.0, ge=0, le=10)
    """How sharply `focal` tells easy from hard. 0 = not at all."""
    focal_detach: bool = True
    """Take the focal factor as a weight. Off: its gradient counts too, as the paper's formula is written."""
    router_aux_loss_coef: Number | None = Field(None, ge=0, le=10)
    """Mixture-of-experts models: how much the balance of the experts counts. Empty = the model's own, 0 = off."""


class WeightingSection(Section):
    """Task weights that change while the run learns, on top of the fixed ones; only for task_mean and
    task_sample_mean."""

    method: Literal["static", "coba", "famo", "self_paced"] = "static"
    """`static`: the weights stay. `coba`: tasks that converge too fast get less, those that diverge are held back.
    `famo`: the slowest task gets more. `self_paced`: the rule of MFTCoder before CoBa."""
    warmup_steps: Count = Field(100, ge=3, le=1_000_000)
    """Optimizer steps with fixed weights at the start. Not for `famo`."""
    history_length: Count = Field(200, ge=3, le=100_000)
    """Observations that a slope is taken over. Not below `warmup_steps`."""
    update_interval: Count = Field(1, ge=1, le=10_000)
    """Optimizer steps between two measurements of the validation loss."""
    validation_examples: Count = Field(4, ge=1, le=1000)
    """Held-out examples of each task that are measured, always the same ones."""
    tau: Number = Field(5.0, gt=0, le=1000)
    """For `coba`: how quickly a divergence is reacted to."""
    variant: Literal["paper", "mftcoder"] = "paper"
    """For `coba`: the paper's rule, or exactly what MFTCoder computes."""
    famo_learning_rate: Number = Field(0.025, gt=0, lt=10)
    """For `famo`: learning rate of the weights."""
    famo_gamma: Number = Field(0.01, ge=0, lt=10)
    """For `famo`: how strongly the weights are pulled towards each other."""
    scale_factor: Number = Field(50.0, gt=0, le=10_000)
    """For `self_paced`: how sharply the weights tell tasks apart."""

    @model_validator(mode="after")
    def _window_holds_the_warmup(self) -> WeightingSection:
        if self.history_length < self.warmup_steps:
            raise MisplacedValue("history_length must not be below warmup_steps", "history_length")
        return self


class OptimSection(Section):
    """Optimizer and schedule; names follow `transformers.TrainingArguments`."""

    learning_rate: Number = Field(2e-4, gt=0, lt=1)
    """Peak learning rate. Typical: 1e-4 to 5e-4 for LoRA, 5e-6 to 5e-5 for full fine-tuning."""
    min_lr: Number = Field(0.0, ge=0, lt=1)
    """Learning rate at the end of the cosine schedule. Not above `learning_rate`."""
    warmup_steps: Number = Field(0.03, ge=0)
    """Optimizer steps of linear warm-up; below 1 it is a share of the run."""
    num_train_epochs: Number = Field(1.0, gt=0, le=1000)
    """Passes over the data: the run sees this many times as many rows as all tasks have, shared out by `mixing`. Not
    used when `max_steps` is set."""
    max_steps: Count | None = Field(None, ge=1)
    """Optimizer steps of the run. Empty = from `num_train_epochs`."""
    per_device_train_batch_size: Count = Field(4, ge=1, le=4096)
    """Examples (packs, with `bfd`) per device in one forward pass."""
    gradient_accumulation_steps: Count = Field(1, ge=1, le=65536)
    """Forward passes per optimizer step. It never changes the loss, only the memory."""
    weight_decay: Number = Field(0.0, ge=0, lt=1)
    """AdamW weight decay; not applied to biases and norms."""
    max_grad_norm: Number = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    optimizer: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"] = "adamw_torch"
    """AdamW of torch, or of bitsandbytes: `adamw_8bit` keeps its state in a quarter of the memory, `paged` ones move
    it to the host when a GPU is full."""
    adam_beta1: Number = Field(0.9, ge=0, lt=1)
    """AdamW: how slowly the mean of the gradients moves."""
    adam_beta2: Number = Field(0.999, ge=0, lt=1)
    """AdamW: how slowly the mean of their squares moves."""
    neftune_noise_alpha: Number | None = Field(None, gt=0, le=100)
    """NEFTune: noise on the embeddings while training, 5 to 15 is typical. Empty = none."""

    @model_validator(mode="after")
    def _min_below_peak(self) -> OptimSection:
        if self.min_lr > self.learning_rate:
            raise ValueError(f"min_lr ({self.min_lr:g}) must not be above learning_rate ({self.learning_rate:g})")
        return self


class RecordSection(Section):
    """When the run logs, evaluates and saves. All numbers are optimizer steps."""

    logging_steps: Count = Field(5, ge=1)
    """A point of the training curves every so many steps. The first 20 steps are always logged."""
    eval_steps: Count = Field(50, ge=1)
    """Evaluate every task every so many steps, and before the first and after the last step."""
    save_steps: Count = Field(50, ge=1)
    """Write a checkpoint every so many steps, and after the last step."""
    save_total_limit: Count = Field(3, ge=1)
    """Keep this many of the newest checkpoints; the best one is kept besides."""
    metric_for_best_model: str = Field("mean", pattern=f"^{TASK_NAME.pattern}$")
    """Which evaluation loss tells the best checkpoint: `mean` over the tasks, or the name of a task."""
    save_best: bool = True
    """Also write a checkpoint whenever an evaluation is the best so far, and never delete the best."""
    early_stopping_patience: Count | None = Field(None, ge=1)
    """End the run when so many evaluations in a row did not improve on the best. Empty = never."""
    early_stopping_threshold: Number = Field(0.0, ge=0)
    """An evaluation improves if it is better by more than this many nats per token."""
    stop_on_nan: bool = True
    """End the run when a loss or gradient is not a number any more. Such a state is never saved as a checkpoint."""
    report_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ("tensorboard",)
    """Where the metrics go besides: `tensorboard` event files in the run's folder, `trackio`, `wandb`. They are always
    in `metrics.jsonl`."""
    per_device_eval_batch_size: Count = Field(8, ge=1, le=4096)
    """Examples per device in one forward pass of the evaluation."""
    sample_prompts: Count = Field(2, ge=0, le=16)
    """Held-out prompts of each task that the model answers at each evaluation, always the same ones; 0 for none."""
    sample_max_new_tokens: Count = Field(64, ge=1, le=1024)
    """Longest such answer, tokens."""


class Recipe(Section):
    """Everything about one run: model, tasks, method, loss, schedule, place."""

    schema_version: Literal[1] = 1
    """Version of this file format."""
    name: str = Field("", max_length=80)
    """Name of the run as people read it. Empty = made from the model and the method."""
    description: str = Field("", max_length=2000)
    """Free text: what the recipe is for and what it needs."""
    model_name_or_path: str = Field(min_length=1, max_length=4096)
    """Hugging Face hub id, `modelscope://org/name`, or on this machine a folder with safetensors or a GGUF file."""
    method: Literal["qlora", "lora", "full"] = "lora"
    """`lora` trains a small adapter, `qlora` does so on a 4-bit base, `full` trains all weights."""
    tasks: tuple[TaskSection, ...] = Field(min_length=1, max_length=256)
    """The tasks that are trained together."""
    seed: Count = Field(42, ge=0, lt=2**32)
    """Seed of initialisation, order and held-out choice."""
    continue_from: str | None = Field(None, max_length=4096)
    """Folder of a checkpoint whose weights the run begins with: same model and adapter, a fresh optimizer and schedule.
    Empty = the base model."""
    model: ModelSection = ModelSection()
    lora: LoraSection = LoraSection()
    data: DataSection = DataSection()
    mixing: MixingSection = MixingSection()
    loss: LossSection = LossSection()
    weighting: WeightingSection = WeightingSection()
    optim: OptimSection = OptimSection()
    record: RecordSection = RecordSection()
    evaluate: EvaluateSection = EvaluateSection()
    launch: LaunchSection = LaunchSection()

    @model_validator(mode="after")
    def _tasks_are_distinct_and_weighted(self) -> Recipe:
        names = [task.name for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two tasks are called `{twice[0]}`: each task needs a name of its own")
        if self.method == "qlora" and self.lora.target_experts:
            raise ValueError("target_experts needs a base in 16 bit: experts in 4 bit stay frozen. Set method to lora")
        if all(task.weight == 0 for task in self.tasks):
            raise ValueError("every task has weight 0: give at least one task a weight above 0")
        if self.weighting.method != "static" and not self.loss.reduction.startswith("task_"):
            raise ValueError(
                f"weighting {self.weighting.method} needs task weights, which {self.loss.reduction} does not use: set "
                "loss.reduction to task_mean or task_sample_mean"
            )
        if self.loss.focal == "task" and not self.loss.reduction.startswith("task_"):
            raise ValueError(
                f"loss.focal `task` needs task weights, which {self.loss.reduction} does not use: set loss.reduction "
                "to task_mean or task_sample_mean, or loss.focal to sample"
            )
        best = self.record.metric_for_best_model
        if best != "mean" and best not in names:
            raise ValueError(f"record.metric_for_best_model is `{best}`: use mean, or a task ({', '.join(names)})")
        if strangers := sorted(set(self.evaluate.by_task()) - set(names)):
            raise ValueError(f"evaluate.task_scorers names `{strangers[0]}`, which is no task ({', '.join(names)})")
        if self.mixing.strategy == "custom" and not any(task.weight and task.mixing_weight for task in self.tasks):
            raise ValueError("every task has mixing_weight 0: give at least one task a mixing_weight above 0")
        return self

    @property
    def order_seed(self) -> int:
        """Seed of the order of the examples."""
        return self.seed if self.data.data_seed is None else self.data.data_seed

    @property
    def display_name(self) -> str:
        """The name people read: `name`, or one made from the model and the method."""
        return self.name or f"{self.model_name_or_path.rstrip('/').rsplit('/', 1)[-1]} {self.method}"
