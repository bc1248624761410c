"""Two processes that are the ranks of a job, kept for the whole test session: importing torch costs more than what they do.

Both are forked from a process that has imported it and computed nothing.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import socket
import traceback

SIZE = 2
IMPORTED = ("rank_cases", "tutelage.training.loop", "tutelage.model.load", "transformers.models.llama.modeling_llama")
SECONDS = 600


class Ranks:
    """`run("function", **arguments)` calls ``rank_cases.function(world, **arguments)`` on every rank; the answers by rank.

    A function whose name begins with "job_" joins the ranks by itself, and is called without a world.
    """

    def __init__(self) -> None:
        self.pipes, self.processes = [], []

    def start(self) -> None:
        self.close()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(IMPORTED))
        for rank in range(SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(rank, theirs), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def run(self, name: str, **arguments):
        if not self.processes or not all(process.is_alive() for process in self.processes):
            self.start()  # again, where a test that failed has ended them
        port = free_port()
        for pipe in self.pipes:
            pipe.send((port, name, arguments))
        answers = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(SECONDS):
                self.close()
                raise AssertionError(f"rank {rank} does not answer")
            answers.append(pipe.recv())
        failures = [f"rank {rank}: {what}" for rank, (ok, what) in enumerate(answers) if not ok]
        if failures:
            self.close()
        assert not failures, "\n".join(failures)
        return [what for _, what in answers]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.pipes, self.processes = [], []


def serve(rank: int, pipe) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(SIZE), LOCAL_WORLD_SIZE=str(SIZE))
    os.environ.update(MASTER_ADDR="127.0.0.1", HF_HUB_OFFLINE="1", OMP_WAIT_POLICY="passive")
    from tutelage import console
    from tutelage.machines.world import join
    from tutelage.model import load as model

    model.has_bfloat16 = lambda device: True  # as in conftest.py

    console.mute()
    console.quiet_libraries()
    while True:
        port, name, arguments = pipe.recv()
        os.environ["MASTER_PORT"] = str(port)
        function = getattr(importlib.import_module("rank_cases"), name)
        try:
            if name.startswith("job_"):
                answer = function(**arguments)
            else:
                with join("cpu", 120.0) as world:
                    answer = function(world, **arguments)
            pipe.send((True, answer))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
            os._exit(1)  # the other one waits for it in vain, and is told by its sockets


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
