"""Checkpoints: sharded, written in the background, complete or not there; an interrupted run continues as if it had not been.

A checkpoint is a directory ``step-00000300`` by torch.distributed.checkpoint: each rank writes what it holds, and any number of
ranks reads it. It is made under another name, and gets its own when everything is on the disk: files, then ``COMPLETE.json``
with size and checksum of each, then the name. Nothing complete is ever written over, and what is removed is renamed first.
Before a run goes on, the files of its newest checkpoint are compared with their checksums; a damaged one is named and passed over.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage import console
from tutelage.errors import InputError, RunError
from tutelage.machines import Sealed, fault_of, files_of, sync_folder, why_not_written, write_seal

if TYPE_CHECKING:  # who only asks for the latest checkpoint needs no torch
    import torch

    from tutelage.machines import World

NAME = re.compile(r"step-(\d{8,})")
OLDER = "; to go on from the checkpoint before, remove this one"


class Checkpoints:
    """The checkpoints of a run; one at a time is on its way to the disk.

    Args:
        keep: how many of the newest stay.
        to_keep: steps whose checkpoint stays besides.
    """

    def __init__(self, run: Path, world: World, keep: int, to_keep: Callable[[], Iterable[int]] = tuple) -> None:
        self.directory, self.world, self.keep, self.to_keep = run / "checkpoints", world, keep, to_keep
        self.last: dict[str, float] = {}
        self._failures: list[str] = []
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writer.submit(int).result()  # its thread is there from now on: later the host may have no memory for one
        self._writing: Future[None] | None = None

    def save(self, step: int, model: Any, optimizer: torch.optim.Optimizer, at_once: bool = False) -> list[str]:
        """Copy trained weights and optimizer state after `step` optimizer steps, and write the copy in the background.

        Order of rows and randomness are functions of (seed, step), so nothing else is needed to continue exactly. An earlier
        checkpoint that is still being written is waited for. What was complete is untouched, whatever happens; a step that has a
        complete checkpoint is not written again.

        Args:
            at_once: write them as they are, by this thread: a host that has run out of memory has neither room for a copy nor for
                a thread.

        Returns:
            What could not be written since it was asked last, in words.
        """
        from torch.distributed.checkpoint import save as write

        from tutelage.runs.summing import writer_to

        failures = self.wait()
        if self.world.first(lambda: is_complete(self.directory / _name(step))):
            return failures
        started = time.monotonic()
        beside = self.directory / f".tmp-{_name(step)}"
        failure = self.world.first(lambda: _make_room(beside))
        if failure:
            return [*failures, failure]
        state = state_of(model, optimizer)
        size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        writer = writer_to(beside)
        how: Any = {"storage_writer": writer, "process_group": self.world.saving, "no_dist": self.world.size == 1}
        if at_once:
            self.last = {"step": step}
            self._finish(step, beside, lambda: write(state, **how), size, started)
            return [*failures, *self.wait()]
        try:
            # torch's `async_save` starts a thread for each save: where the host has no memory for one, it waits for that thread for ever
            copy = writer.stage(state)
        except (MemoryError, RuntimeError) as error:  # no room for the copy
            if self.world.size > 1:
                raise
            return [*failures, f"{self.directory / _name(step)}: the checkpoint could not be copied: {_reason(error)}"]
        self.last = {"step": step, "call_seconds": round(time.monotonic() - started, 3)}
        self._writing = self._writer.submit(self._finish, step, beside, lambda: write(copy, **how), size, started)
        return failures

    def _finish(self, step: int, beside: Path, write: Callable[[], Any], size: int, started: float) -> None:
        """Mostly in a thread of its own: when every rank has written, seal the checkpoint, and remove those that are no longer wanted."""
        from torch.distributed.checkpoint.api import CheckpointException

        target = self.directory / _name(step)
        try:
            write()
            if self.world.leads:
                _seal(beside, step, self.world.size)
                if target.exists():  # one that was damaged
                    remove(target)
                beside.rename(target)
                sync_folder(self.directory)
                newest = map(step_of, complete(self.directory)[-self.keep :])
                _remove_all_but(self.directory, [*newest, *self.to_keep()])
        except (Exception, CheckpointException) as error:  # torch's own is no Exception
            if self.world.leads:
                shutil.rmtree(beside, ignore_errors=True)
            self._failures.append(f"{target}: the checkpoint could not be written: {_reason(error, self.directory, size)}")
            return
        self.last = {**self.last, "seconds": round(time.monotonic() - started, 3)}

    def wait(self) -> list[str]:
        """Wait for what is on its way; what could not be written since it was asked last, in words."""
        self.world.long_task("waits for a checkpoint")
        if self._writing is not None:
            self._writing.result()
        failures, self._failures = self._failures, []
        return failures

    def close(self) -> None:
        self._writer.shutdown()


def state_of(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Every tensor that training changes, by name: trained weights as ``model.NAME``, moments as ``optimizer.NAME.KEY``.

    What an optimizer remembers of all weights together is ``optimizer.KEY``. Those are the tensors themselves, not copies.
    """
    state: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            state[f"model.{name}"] = parameter.detach()
            for key, value in optimizer.state.get(parameter, {}).items():
                state[f"optimizer.{name}.{key}"] = value
    for owner, values in optimizer.state.items():
        if isinstance(owner, str):
            state |= {f"optimizer.{key}": value for key, value in values.items()}
    return state


def latest(run: Path, before: int | None = None) -> Path | None:
    """The newest complete checkpoint of a run directory (of at most `before` steps), if there is one."""
    found = [path for path in complete(run / "checkpoints") if before is None or step_of(path) <= before]
    return found[-1] if found else None


def complete(directory: Path) -> list[Path]:
    """The complete checkpoints in a directory, oldest first."""
    return [path for path in _named(directory) if is_complete(path)]


def step_of(path: Path) -> int:
    """After how many optimizer steps a checkpoint was taken."""
    return int(path.name.removeprefix("step-"))


def sound(run: Path, before: int | None = None, then: str = "going on after step {step}") -> Path | None:
    """The newest checkpoint (of at most `before` steps) whose files are as they were written; None where a run has none at all.

    A newer one that is damaged is said, with what is done `then`.

    Raises:
        InputError: there are checkpoints, and each is damaged.
    """
    faults: list[str] = []
    for path in reversed(_named(run / "checkpoints")):
        if before is not None and step_of(path) > before:
            continue
        fault = damage_of(path)
        if not fault:
            for each in faults:
                console.say(f"{each}; {then.format(step=step_of(path))}", style="bold red")
            return path
        faults.append(f"{path} is damaged: {fault}")
    if faults:
        raise InputError(
            f"run.dir: no checkpoint of {run} can be used. {'; '.join(faults)}. To begin again from step 0, remove"
            f" {run / 'checkpoints'}, or give the run another --run.dir"
        )
    return None


def set_damaged_aside(run: Path) -> None:
    """Rename checkpoints that are newer than the newest sound one, so that none is taken for it; what `sound` says is said.

    They are removed when the next checkpoint is complete. Raises InputError as `sound`.
    """
    found = sound(run)
    for path in _named(run / "checkpoints"):
        if found is not None and step_of(path) > step_of(found):
            aside = path.with_name(f".damaged-{path.name}")
            remove(aside)
            path.rename(aside)


def damage_of(path: Path) -> str:
    """What is wrong with a checkpoint, in words; "" where all its files are as they were written.

    One of an earlier version has no checksums; that is said.
    """
    fault = fault_of(path)
    if fault or all(entry.checksum for entry in files_of(path).values()):
        return fault
    from torch.distributed.checkpoint import FileSystemReader

    try:
        FileSystemReader(path).read_metadata()
    except Exception as error:  # whatever a damaged pickle raises
        return f".metadata cannot be read: {_reason(error)}"
    console.say(
        f"{path} is of an earlier version and has no checksums: the sizes of its files alone were compared", style="yellow"
    )
    return ""


def load(path: Path, model: Any, optimizer: torch.optim.Optimizer | None, world: World) -> int:
    """Restore weights and optimizer state in place; returns the number of optimizer steps done.

    Args:
        optimizer: one with state, as `optim.fill_state` makes it; None: the weights alone are read.

    Raises:
        RunError: it is of another model or optimizer, or was damaged.
    """
    import torch
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint import load as read
    from torch.distributed.checkpoint.api import CheckpointException

    reader = FileSystemReader(path)
    try:
        there = set(reader.read_metadata().state_dict_metadata)
    except Exception as error:
        raise RunError(f"{path}: not a checkpoint of this version of Tutelage, or damaged: {_reason(error)}{OLDER}") from None
    wanted = state_of(model, optimizer or torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]))
    if not any(name.startswith("optimizer.") for name in there):  # taken before the first step
        wanted = {name: value for name, value in wanted.items() if name.startswith("model.")}
    unknown = set(wanted) ^ {name for name in there if optimizer is not None or name.startswith("model.")}
    of_all = {name for name in unknown if name.startswith("optimizer.") and name.count(".") == 1}
    wanted = {name: value for name, value in wanted.items() if name not in of_all}  # not every way to update remembers something
    unknown -= of_all
    if unknown:
        raise RunError(f"{path}: the checkpoint is of another model or optimizer: {min(unknown)}")
    try:
        with torch.no_grad():
            read(wanted, storage_reader=reader, process_group=world.saving, no_dist=world.size == 1)
    except (Exception, CheckpointException) as error:
        raise RunError(f"{path}: the checkpoint cannot be read: {_reason(error)}{OLDER}") from None
    return step_of(path)


def remove(path: Path) -> None:
    """Remove a checkpoint, or what is left of one: first its name, so that nothing half removed can be taken for complete."""
    gone = path.with_name(f".del-{path.name.lstrip('.')}-{os.getpid()}")
    with contextlib.suppress(OSError):
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def remove_all(run: Path, to_keep: Iterable[int] = ()) -> None:
    """Remove the checkpoints of a finished run, whose model is its result, but those of some steps."""
    directory = run / "checkpoints"
    if directory.is_dir():
        _remove_all_but(directory, to_keep)
        with contextlib.suppress(OSError):  # it is not empty
            directory.rmdir()


def size_on_disk(run: Path) -> int:
    """Bytes of a run's checkpoints and model, or of what is left of them."""
    folders = [run / name for name in ("checkpoints", "model", ".model.tmp")]
    total = 0
    for path in itertools.chain.from_iterable(folder.rglob("*") for folder in folders):
        with contextlib.suppress(OSError):  # removed meanwhile
            total += path.lstat().st_blocks * 512 if path.is_file() else 0
    return total


def _remove_all_but(directory: Path, steps: Iterable[int]) -> None:
    kept = {_name(step) for step in steps}
    for path in directory.iterdir():
        if path.name not in kept:
            remove(path)


def is_complete(path: Path) -> bool:
    """Whether every file of a checkpoint is there, as long as it was."""
    return not fault_of(path, in_full=False)


def _named(directory: Path) -> list[Path]:
    """What has the name of a checkpoint in a directory, complete or not, oldest first."""
    return sorted((path for path in directory.glob("step-*") if NAME.fullmatch(path.name)), key=step_of)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _make_room(beside: Path) -> str:
    """An empty directory; or why there is none."""
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.parent.mkdir(exist_ok=True)  # without its parents: a run directory that is gone does not come back
        beside.mkdir()
    except OSError as error:
        return f"{beside.parent}: no checkpoint can be written: {error.strerror}"
    return ""


def _seal(folder: Path, step: int, ranks: int) -> None:
    """Say that all is there, once it is on the disk.

    Raises:
        OSError: a file is missing on this rank's disk, or shorter than the rank said that wrote it.
    """
    from torch.distributed.checkpoint import FileSystemReader

    from tutelage.runs.summing import take_checksums

    checksums = take_checksums(folder)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    written: Any = FileSystemReader(folder).read_metadata()  # what saving returns lacks the files under torch 2.11
    for entry in written.storage_data.values():
        if files.get(entry.relative_path, -1) < entry.offset + entry.length:
            raise OSError(f"{entry.relative_path} is missing or too short on the disk of the first rank")
    if set(files) != set(checksums):
        raise OSError(f"{min(set(files) ^ set(checksums))} is missing, or has no checksum, on the disk of the first rank")
    write_seal(folder, {name: Sealed(size, checksums[name]) for name, size in files.items()}, step=step, ranks=ranks)


def _reason(error: BaseException, folder: Path = Path(), needed: int = 0) -> str:
    """The first cause of an error that torch has wrapped, in a line; of a full disk, with what is needed and free in a folder."""
    failures = getattr(error, "failures", None)
    if failures:  # torch's CheckpointException: rank → (error, traceback)
        error = next(iter(failures.values()))[0]
    return why_not_written(error, folder, needed)
