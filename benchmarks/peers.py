"""GRPO, rlbench against TRL (Hugging Face) on this machine's processor: the same network, shapes and rewards, in turn.

A step samples a batch, has it judged, and makes one update of AdamW, without KL. Both sides get rewards from a seeded
generator, so that no group is equal and nothing is won by groups that teach nothing. Where completions are longer than
4 tokens, neither side may end one early. TRL's trainer runs as it is; after each of its steps, rlbench takes one.

    python -m benchmarks.peers [steps]
"""

import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from rlbench.acting.player import Player
from rlbench.devices import Devices, keep_freed_memory
from rlbench.learning.learner import Learner
from rlbench.models.tokenizers import END, PAD
from rlbench.plan import Plan, make_plan
from rlbench.plugins import build, plain
from rlbench.types import Algorithm, Status, Step

RATE, WARM_UP = 1e-5, 3


class Work(NamedTuple):
    """Shapes of a step."""

    problems: int
    group: int
    tokens: int  # of a completion, at most
    width: int

    @property
    def name(self) -> str:
        width = f", width {self.width}" if self.width != 128 else ""
        return f"{self.problems} x {self.group} x {self.tokens}{width}"


WORKS = (Work(64, 8, 4, 128), Work(8, 16, 64, 128), Work(32, 16, 16, 128), Work(64, 8, 4, 64))


class Luck:
    """The plan's task, with rewards that are drawn."""

    def __init__(self, task: Any):
        self.task, self.bounds, self.draw = task, task.bounds, random.Random(0)

    def problem(self, seed: int, split: str) -> Any:
        return self.task.problem(seed, split)

    def step(self, state: Any, completion: str) -> Step:
        return Step(state, None, self.draw.random(), Status.WRONG)


def plan_of(work: Work, *words: str) -> Plan:
    """A plan for the shapes, whose task is luck and whose policy does not end where completions are long."""
    size = [f"model.width={work.width}", f"model.hidden={3 * work.width}", f"algo.group_size={work.group}"]
    size += [f"batch.rollouts={work.problems * work.group}", f"batch.max_completion_tokens={work.tokens}"]
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        config = compose("config", ["algo=grpo", "model=micro", "tracker=none", *size, *words])
    plan = make_plan(config, {"algo": "grpo", "task": "arithmetic"}, jax.devices()[:1])
    model = plan.model
    if work.tokens > 4:
        model = model._replace(emits=model.emits & (np.arange(len(model.emits)) != END))
    algorithm = build(plain(config)["algo"], "algo", model, kind=Algorithm)
    return plan._replace(model=model, algorithm=algorithm, task=Luck(plan.task))


def rlbench_step(plan: Plan) -> Callable[[], tuple[float, float]]:
    """A step as rlbench takes it: seconds of acting and of learning."""
    devices = Devices(plan.devices)
    made = plan.model, plan.task, plan.tokenizer, plan.limits, plan.sampling, devices, jax.random.key(0)
    player = Player(*made, plan.verifier, plan.acting)
    learner = Learner(
        plan.algorithm, optax.adamw(RATE), plan.update_config, devices, seed=0, donate=True, widths=plan.limits.widths
    )
    group = plan.algorithm.group_size
    count = plan.rollouts // group
    state: Any = None
    index = 0

    def step() -> tuple[float, float]:
        nonlocal state, index
        start = time.perf_counter()
        problems = [(seed, plan.task.problem(seed, "train")) for seed in range(index * count, (index + 1) * count)]
        if state is None:
            state = learner.init(jax.random.key(1), plan.model.init(jax.random.key(2)), None)
        policy = plan.algorithm.acting(state.trainable, state.frozen)
        batch = player.play(policy, problems, group, first_id=index * plan.rollouts, version=index)
        middle = time.perf_counter()
        state, _, _ = learner.step(state, *devices.shard((batch.rollouts, batch.prompts)))
        index += 1
        return middle - start, time.perf_counter() - middle

    return step


def beside_trl(work: Work, plan: Plan, ours: Callable[[], tuple[float, float]], steps: int) -> np.ndarray:
    """Steps of TRL and of rlbench in turn, as seconds [steps, 3]: TRL; acting and learning of rlbench."""
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.set_num_threads(os.cpu_count() or 1)
    transformers.logging.set_verbosity_error()
    names = ["<pad>", "<end>", *plan.tokenizer.alphabet]
    characters = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )
    shape = transformers.LlamaConfig(
        vocab_size=len(names),
        hidden_size=work.width,
        intermediate_size=3 * work.width,
        num_hidden_layers=4,
        num_attention_heads=4,
        rope_theta=100.0,
        max_position_embeddings=256,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
        tie_word_embeddings=False,
    )
    rewards, seconds = random.Random(0), []

    class InTurn(transformers.TrainerCallback):
        """Takes a step of rlbench after each of TRL's."""

        def on_train_begin(self, *args: Any, **words: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *args: Any, **words: Any) -> None:
            theirs = time.perf_counter() - self.began
            seconds.append((theirs, *ours()))
            self.began = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        settings = trl.GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=work.problems * work.group,
            num_generations=work.group,
            max_completion_length=work.tokens,
            max_steps=WARM_UP + steps,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            beta=0.0,
            loss_type="grpo",
            generation_kwargs={"suppress_tokens": [PAD, END] if work.tokens > 4 else [PAD]},
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_num_workers=0,
        )
        prompts = [plan.task.problem(seed, "train").prompt for seed in range(4096)]
        trainer = trl.GRPOTrainer(
            model=transformers.LlamaForCausalLM(shape),
            processing_class=tokenizer,
            reward_funcs=lambda completions, **words: [rewards.random() for _ in completions],
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            callbacks=[InTurn()],
        )
        trainer.train()
    return np.array(seconds)[WARM_UP:]


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    warnings.filterwarnings("ignore")
    keep_freed_memory()
    console = Console(width=120)
    try:
        import torch
        import trl
    except ImportError:
        console.print("TRL is not installed, so nothing is compared: pip install -e '.[peers]'")
        return
    table = Table(title=f"seconds a GRPO step, medians of {steps}: TRL {trl.__version__}, torch {torch.__version__}")
    for name in ("problems x group x tokens", "TRL", "rlbench", "acting", "learning", "TRL / rlbench", "least, most"):
        table.add_column(name, justify="right")
    for work in WORKS:
        plan = plan_of(work, "algo.kl_coef=0")
        times = beside_trl(work, plan, rlbench_step(plan), steps)
        theirs, own = times[:, 0], times[:, 1:].sum(axis=1)
        ratios = theirs / own
        parts = (statistics.median(column) for column in (theirs, own, times[:, 1], times[:, 2]))
        spread = f"{ratios.min():.2f}, {ratios.max():.2f}"
        table.add_row(work.name, *(f"{x:.3f}" for x in parts), f"{statistics.median(ratios):.2f}", spread)
        plan.verifier.close()
    console.print(table)


if __name__ == "__main__":
    main()
