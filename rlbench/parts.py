"""The parts of a run, made from its plan: who plays, learns, evaluates and forms batches, each with an account."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .accounting.account import Account
from .accounting.flops import network_of
from .accounting.ledger import Ledger
from .accounting.memory import MemoryMeter, free_bytes, network_bytes, prices, tree_bytes
from .accounting.peaks import peak_of
from .accounting.shared import Shared
from .accounting.timeline import Activity, Timeline
from .acting.player import Player
from .acting.slots import Sampling
from .checkpoint import refilled
from .contract.algorithm import shapes
from .contract.task import training_problems
from .devices import CompiledFunction, Devices
from .interrupts import LEFT
from .learning.learner import Learner
from .plan import Plan
from .randomness import key_of
from .running.actor import Actor
from .running.arrivals import Recording, Replay
from .running.behaviour import BehaviourRatio
from .types import Array, LearnerState, Params, Phase, Rollouts, keep_all
from .verifying.delay import AT_ONCE
from .warm_start import Cost

LEARNER = "learner"  # begins the names of the learner's arrays in a checkpoint


class Parts:
    """Everything that works in a run; nothing is compiled yet.

    Args:
      shared: with other runs of the process.
    """

    def __init__(self, plan: Plan, shared: Shared | None = None):
        self.plan = plan
        self.memory = MemoryMeter(plan.devices[0], shared)
        self.timeline = Timeline(share=shared.turns.share if shared else None)
        self.acting_devices, self.learning_devices = (
            Devices(devices, self.memory, shared.programs(role) if shared else None)
            for role, devices in (("actor", plan.acting_devices), ("learner", plan.learning_devices))
        )
        self.actor_account = Account(self.timeline, "actor", shared=shared)
        self.learner_account = Account(self.timeline, "learner", shared=shared)
        evaluation, behaviour = (
            Account(self.timeline, "learner", Activity.EVALUATING, shared=shared) for _ in range(2)
        )
        acting, evaluating, self.init_key = jax.random.split(key_of(plan.seed), 3)
        self._compiler: threading.Thread | None = None  # of the learner's programs
        self.stop = threading.Event()  # set when no more batches are wanted
        about = plan.model, plan.task, plan.tokenizer, plan.limits
        rest = plan.verifier, plan.acting
        delay = plan.verifier.settings.delay
        self.player = Player(
            *(*about, plan.sampling, self.acting_devices, acting, *rest, self.actor_account, delay, self.stop)
        )
        truncated = Sampling(plan.evaluation.top_k, plan.evaluation.top_p)
        rows = plan.acting._replace(slots=plan.acting.slots or plan.rollouts)  # as in training: the same programs
        self.evaluator = Player(
            *(*about, truncated, self.learning_devices, evaluating, plan.verifier, rows, evaluation, AT_ONCE)
        )
        self.keeps = CompiledFunction(
            self.acting_devices, plan.algorithm.keep, phase=Phase.SCORE, account=self.actor_account
        )
        self.behaviour = BehaviourRatio(plan.algorithm, plan.model, self.learning_devices, behaviour)
        self.learner = Learner(
            plan.algorithm,
            plan.optimizer,
            plan.update_config,
            self.learning_devices,
            seed=plan.seed,
            donate=plan.runner.max_staleness == 0,
            account=self.learner_account,
            widths=plan.limits.widths if plan.model.branch else None,
        )

    def begin(self, params: Params) -> LearnerState:
        """The state before the first step."""
        plan = self.plan
        policy = self.learning_devices.replicate(params)
        state = self.learner.init(self.init_key, policy, shapes(plan.rollouts, plan.limits.episode))
        self._name_sampler(state)
        return state

    def resume(self, arrays: Mapping[str, np.ndarray], version: int) -> LearnerState:
        """The state after a step, of arrays that were saved then.

        Raises:
          ConfigError: they are those of another model, algorithm or optimizer.
        """
        plan = self.plan
        policy = jax.eval_shape(plan.model.init, self.init_key)
        rows = shapes(plan.rollouts, plan.limits.episode)

        def parts(key: Array, policy: Params) -> dict[str, Any]:
            state = self.learner.init(key, policy, rows)._asdict()
            return {name: tree for name, tree in state.items() if name != "version"}

        like = jax.eval_shape(parts, self.init_key, policy)
        state = LearnerState(**self.learning_devices.replicate(refilled(like, arrays, LEARNER)), version=version)
        self._name_sampler(state)
        return state

    def _name_sampler(self, state: LearnerState) -> None:
        """Costs of what samples are counted under its own name; by itself, where acting computes it."""
        sampler = network_of(self.plan.algorithm.acting, state.trainable, state.frozen)
        self.player.network = self.evaluator.network = sampler or "acting"

    def prepare_learner(self, state: LearnerState) -> None:
        """Compiles the learner's programs on a thread, while acting and evaluation begin.

        An error is told where the learner needs the program.
        """
        plan = self.plan
        batch = shapes(plan.rollouts, plan.limits.episode)
        prompts = jax.ShapeDtypeStruct((plan.rollouts // plan.algorithm.group_size,), np.int32)

        def compile_programs() -> None:
            with contextlib.suppress(Exception):
                self.learner.prepare_aside(state, batch, prompts)

        self._compiler = threading.Thread(target=compile_programs, name="compiler", daemon=True)
        LEFT.append(self._compiler)
        self._compiler.start()

    @property
    def accounts(self) -> dict[str, Account]:
        return {"actor": self.actor_account, "learner": self.learner_account, "evaluation": self.evaluator.account}

    @property
    def uncounted(self) -> list[str]:
        """Operations that were not counted."""
        return sorted(set[str]().union(*(account.uncounted for account in self.accounts.values())))

    def policy(self, state: LearnerState) -> Params:
        """The network that samples."""
        return self.plan.algorithm.acting(state.trainable, state.frozen)

    def ledger(self, state: LearnerState, cost: Cost | None = None) -> Ledger:
        """The ledger, with what the warm start cost when it was made, unless that is entered already."""
        plan, sampler = self.plan, self.player.network
        networks = state.trainable | state.frozen | {sampler: self.policy(state)}
        sizes = {name: size for name, params in networks.items() if (size := plan.model.size(params))}
        peak, accelerator = peak_of(plan.devices, plan.model.dtype), plan.devices[0].platform != "cpu"
        ledger = Ledger(sizes, peak, self.timeline, devices=len(plan.devices), accelerator=accelerator)
        if cost:
            trained = [
                {sampler if name == "policy" else name: count for name, count in flops.items()}
                for flops in (cost.executed_flops, cost.useful_flops)
            ]
            ledger.warmed(*trained)
        return ledger

    @contextlib.contextmanager
    def acting(self, ledger: Ledger, folder: Path, saved: Mapping[str, Any] | None) -> Iterator[Actor]:
        """A block in which the actor acts. What chance decides is written to the folder where it can matter.

        Args:
          saved: the state of an actor that it goes on from.
        """
        plan = self.plan
        recorded, replayed = (saved["recorded"], saved["replayed"]) if saved else (0, 0)
        with contextlib.ExitStack() as stack:
            recording = replay = None
            if plan.runner.max_staleness:
                recording = stack.enter_context(Recording(folder, plan.terms, recorded))
            if plan.runner.replay:
                replay = Replay(Path(plan.runner.replay), plan.terms, replayed)
            actor = Actor(
                self.player,
                lambda first, count: training_problems(plan.task, plan.seed, first, count),
                None if plan.algorithm.keep is keep_all else self._keep,
                ledger,
                plan.runner,
                rollouts=plan.rollouts,
                group_size=plan.algorithm.group_size,
                steps=plan.steps,
                rounds=plan.max_sampling_rounds,
                recording=recording,
                replay=replay,
                saved=saved,
            )
            del saved
            stack.callback(actor.close)
            actor.start()
            yield actor

    def room(self, buffers: int) -> tuple[int, int, int]:
        """Bytes that the run takes, those of its largest program's temporaries, and those that are left beside it.

        For a run among others, once all but acting has been done once.

        Args:
          buffers: as of `buffer_bytes`.
        """
        if self._compiler:
            self._compiler.join()
        plan = self.plan
        rows = self.player.cache_bytes(plan.rollouts, plan.algorithm.group_size) // len(plan.acting_devices)
        sizes = [size for account in self.accounts.values() for size in dict(account.temporaries).values()]
        batch = rows + buffers // len(plan.learning_devices)
        free = free_bytes(plan.devices[0])
        return self.memory.own() + batch, max(sizes, default=0), max(free - batch, 0)

    def buffer_bytes(self, state: LearnerState) -> int:
        """Bytes of the longest rows of a batch and of their scores, on all devices together."""
        batch = shapes(self.plan.rollouts, self.plan.limits.episode)
        scores = jax.eval_shape(self.plan.algorithm.score, state.trainable, state.frozen, batch, np.int32(0))
        return tree_bytes((batch, scores))

    def memory_of(self, state: LearnerState, buffers: int) -> dict[str, Any]:
        """The ledger's memory section, in bytes a device.

        Args:
          buffers: as of `buffer_bytes`.
        """
        plan, components, sampler = self.plan, network_bytes(state), self.player.network
        if sampler not in components:
            components[sampler] = {"parameters": tree_bytes(jax.eval_shape(self.policy, state))}
        cache = self.player.cache_bytes(plan.rollouts, plan.algorithm.group_size)
        return {
            "components": components,
            "sampling_network": sampler,
            "kv_cache": cache // len(plan.acting_devices),
            "rollout_buffers": buffers // len(plan.learning_devices),
            "temporaries": {
                f"{name} ({who})": size
                for who, account in self.accounts.items()
                for name, size in dict(account.temporaries).items()  # a thread that was left behind may add to it
            },
            "price": prices(components, sampler),
            "device_peak": self.memory.peak(),
            "process_peak": self.memory.process_peak(),
            "device_peak_source": self.memory.source,
            "resident_peak": self.memory.resident,
        }

    def _keep(self, rollouts: Rollouts) -> np.ndarray:
        """bool[B]: which of some rollouts the algorithm keeps."""
        with self.actor_account.during(Activity.COMPUTING):
            return jax.device_get(self.keeps(self.acting_devices.shard(rollouts)))
