"""GRPO, rlbench against TRL (Hugging Face) on this machine's processor: the same network, shapes and rewards, in turn.

A step samples a batch, has it judged, and makes one update of AdamW, without KL. Both sides get rewards from a seeded
generator, so that no group is equal and nothing is won by groups that teach nothing. Where completions are longer than
4 tokens, neither side may end one early. TRL's trainer runs as it is, in a process of its own; after each of its
steps, rlbench takes one. TRL 1.16 has no PPO any more: PPO and async-GRPO are compared with rlbench's own GRPO.

    python -m benchmarks.peers [steps]
"""

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from benchmarks.side import Side
from rlbench.devices import keep_freed_memory
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


def plan_of(work: Work, *words: str, algorithm: str = "grpo", devices: Sequence[jax.Device] = ()) -> Plan:
    """A plan for the shapes, whose task is luck and whose policy does not end where completions are long."""
    size = [f"model.width={work.width}", f"model.hidden={3 * work.width}", f"algo.group_size={work.group}"]
    size += [f"batch.rollouts={work.problems * work.group}", f"batch.max_completion_tokens={work.tokens}"]
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        config = compose("config", [f"algo={algorithm}", "model=micro", "tracker=none", *size, *words])
    plan = make_plan(config, {"algo": algorithm, "task": "arithmetic"}, devices or jax.devices()[:1])
    model = plan.model
    if work.tokens > 4:
        model = model._replace(emits=model.emits & (np.arange(len(model.emits)) != END))
    own = build(plain(config)["algo"], "algo", model, kind=Algorithm)
    return plan._replace(model=model, algorithm=own, task=Luck(plan.task))


def trl_steps(work: Work) -> None:
    """Takes steps of TRL's trainer, each when a line comes on stdin, and prints their seconds. A process of its own."""
    import torch
    import transformers
    import trl
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers

    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)  # for numbers alone
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    transformers.logging.set_verbosity_error()
    plan = plan_of(work)
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
    rewards = random.Random(0)

    class OnCall(transformers.TrainerCallback):
        """Lets a step be taken when it is asked for."""

        def on_train_begin(self, *args: Any, **words: Any) -> None:
            self.wait()

        def on_step_end(self, *args: Any, **words: Any) -> None:
            out.write(f"{time.perf_counter() - self.began}\n")
            self.wait()

        def wait(self) -> None:
            if not sys.stdin.readline():
                os._exit(0)
            self.began = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        settings = trl.GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=work.problems * work.group,
            num_generations=work.group,
            max_completion_length=work.tokens,
            max_steps=10**6,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            beta=0.0,
            loss_type="grpo",
            generation_kwargs={"suppress_tokens": [PAD, END] if work.tokens > 4 else [PAD]},
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_num_workers=0,
        )
        prompts = [plan.task.problem(seed, "train").prompt for seed in range(4096)]
        trl.GRPOTrainer(
            model=transformers.LlamaForCausalLM(shape),
            processing_class=tokenizer,
            reward_funcs=lambda completions, **words: [rewards.random() for _ in completions],
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            callbacks=[OnCall()],
        ).train()


@contextlib.contextmanager
def trl_of(index: int) -> Iterator[Callable[[], float]]:
    """A function that has TRL take a step of WORKS[index], and returns its seconds."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peers", "--trl", str(index)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin and process.stdout
        to, back = process.stdin, process.stdout

        def step() -> float:
            to.write("\n")
            to.flush()
            return float(back.readline())

        try:
            yield step
        finally:
            to.close()
            process.wait()


def main() -> None:
    if sys.argv[1:2] == ["--trl"]:
        trl_steps(WORKS[int(sys.argv[2])])
        return
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    keep_freed_memory()
    console = Console(width=120)
    try:
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("trl", "torch", "transformers"))
    except metadata.PackageNotFoundError as missing:
        console.print(f"{missing.name} is not installed: pip install -e '.\\[peers]'. Nothing is compared.")
        return
    trl_table(console, steps, versions)
    own_table(console, steps)


def trl_table(console: Console, steps: int, versions: str) -> None:
    """rlbench against TRL."""
    table = Table(title=f"seconds a GRPO step, medians of {steps} in turn: {versions}, jax {jax.__version__}")
    for name in ("problems x group x tokens", "TRL", "rlbench", "acting", "learning", "TRL / rlbench", "least, most"):
        table.add_column(name, justify="right")
    for index, work in enumerate(WORKS):
        plan = plan_of(work, "algo.kl_coef=0")
        ours = Side(plan, optax.adamw(RATE))
        with trl_of(index) as theirs, contextlib.closing(plan.verifier):
            times = np.array([(theirs(), *ours.step()) for _ in range(WARM_UP + steps)])[WARM_UP:]
        other, own = times[:, 0], times[:, 1:].sum(axis=1)
        ratios = other / own
        parts = (np.median(column) for column in (other, own, times[:, 1], times[:, 2]))
        spread = f"{ratios.min():.2f}, {ratios.max():.2f}"
        table.add_row(work.name, *(f"{x:.3f}" for x in parts), f"{np.median(ratios):.2f}", spread)
    console.print(table)


def own_table(console: Console, steps: int) -> None:
    """PPO and async-GRPO against GRPO, at the first work's shapes and one thread: what their arithmetic costs."""
    work = WORKS[0]
    table = Table(title=f"seconds a step of {work.name}, medians of {steps} in turn")
    for name in ("algorithm", "acting", "learning", "step", "times GRPO"):
        table.add_column(name, justify="right")
    names = ("grpo", "ppo", "async_grpo")
    plans = [plan_of(work, algorithm=name) for name in names]
    sides = [Side(plan, optax.adamw(RATE)) for plan in plans]
    times = np.array([[side.step() for side in sides] for _ in range(WARM_UP + steps)])[WARM_UP:]  # [steps, who, part]
    for plan in plans:
        plan.verifier.close()
    for name, own in zip(names, times.swapaxes(0, 1), strict=True):
        ratio = np.median(own.sum(axis=1) / times[:, 0].sum(axis=1))
        table.add_row(
            name, *(f"{x:.3f}" for x in (*np.median(own, axis=0), np.median(own.sum(axis=1)))), f"{ratio:.2f}"
        )
    console.print(table)


if __name__ == "__main__":
    main()
