"""The command line: argument parsing only. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import InputError, RunError
from tutelage.machine import prepare_process
from tutelage.overrides import split_overrides

MODEL = "a run directory, a model directory, a hub name, or smollm2"
DATA = "a file, a directory of shards, a hub name, or arithmetic"
WITHOUT_SETTINGS = ("demo", "grade", "export", "report", "compare")
WHERE = "local (default), ray (the cluster that RAY_ADDRESS names, else one on this machine), or ray://HOST:PORT"
OVERRIDES = "Any setting can be changed: --section.key value (tutelage train --help lists them all)."


class SettingsHelp(argparse.Action):
    """``train --help``: the usage, then every setting with its docstring."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show this message, with every setting, and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from tutelage.config import describe

        lines, last = [parser.format_help()], ""
        for section, key, kind, default, text in describe():
            if section != last:
                lines.append(f"\n[{section}]")
                last = section
            lines.append(f"  --{section}.{key}  ({kind}; default {default})\n      {text}")
        print("\n".join(lines))
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tutelage",
        description="Fine-tune reasoning models on worked solutions, and see while it trains whether they learn to solve problems.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser(
        "demo", help="the whole job in about four minutes on two cores: filter, train, evaluate, report"
    ).set_defaults(run=_demo)
    for add in (_add_plan, _add_train, _add_sweep, _add_eval, _add_filter, _add_ask, _add_report, _add_compare, _add_export, _add_grade):
        add(commands)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train", help="train by a configuration, evaluating while it trains", add_help=False, allow_abbrev=False,
        usage="tutelage train [CONFIG.toml] [--section.key value …]",
        description="Train by a TOML file and overrides. Run again in an unfinished run directory, it goes on from the last checkpoint.",
    )  # fmt: skip
    train.set_defaults(run=_train)
    train.add_argument(
        "config", nargs="?", help="a TOML file; without one, the defaults (the embedded model on the built-in task)"
    )
    train.add_argument(
        "--launch", type=int, metavar="N", help="as N ranks on this machine, which share the model (or start it with torchrun)"
    )
    train.add_argument(
        "--allow", action="append", default=[], metavar="section.key",
        help="go on with an unfinished run although this setting has changed (can be given several times)",
    )  # fmt: skip
    train.add_argument(
        "--replay", type=int, metavar="STEP", help="compute a step of the run again, row by row, and write nothing"
    )
    train.add_argument("-h", "--help", action=SettingsHelp)


def _train(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from tutelage.config import load_config

    config = load_config(arguments.config, overrides)
    _start()
    if arguments.replay is not None:
        from tutelage.replay import replay

        replay(config, arguments.replay)
        return
    from tutelage import show
    from tutelage.train import train_one_size

    result = train_one_size(config, allow_changes=arguments.allow)
    show.finished(result.directory, result.evaluations, result.evaluation_cost)


def _add_plan(commands: Any) -> None:
    plan = commands.add_parser(
        "plan", help="will it fit, how long will it take, what to change: before anything is computed", allow_abbrev=False,
        description=f"Reckons memory and time of a run on a device, from the model's configuration and the rows' lengths. {OVERRIDES}",
    )  # fmt: skip
    plan.set_defaults(run=_plan)
    plan.add_argument("config", nargs="?", help="a TOML file; without one, the defaults")
    plan.add_argument(
        "--device", help="a10g, l4, a100-40, h100, rtx4090, cpu, or the GiB of a GPU (default: where it would run on this machine)"
    )
    plan.add_argument("--gpus", type=int, default=1, help="how many of them; with several, the last one is vLLM's (default 1)")
    plan.add_argument("--length", type=int, metavar="TOKENS", help="plan for rows of so many tokens, without data or tokenizer")
    plan.add_argument("--trace", action="store_true", help="run the step's code on tensors without memory, rather than the formula")
    plan.add_argument("--out", type=Path, help="write the configuration with the proposal in it to this file")


def _plan(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from tutelage.config import load_config

    config = load_config(arguments.config, overrides)
    _start()
    from tutelage.advice import plan_run

    plan_run(config, arguments.device, arguments.gpus, arguments.length, arguments.trace, arguments.out)


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser(
        "sweep", help="accuracy against the number of training rows, raw and filtered, with intervals", allow_abbrev=False,
        description=f"One training run for each size, kind of data, seed and varied setting. Run again, it goes on. {OVERRIDES}",
    )  # fmt: skip
    sweep.set_defaults(run=_sweep)
    sweep.add_argument("config", nargs="?", help="a TOML file; without one, the defaults")
    sweep.add_argument("--sizes", default="full", help='training rows: 128,256,512,1024,full (default "full")')
    sweep.add_argument(
        "--data", default="filtered",
        help="raw, filtered (right solutions only), control (as many rows as the filter keeps, at random); default filtered",
    )  # fmt: skip
    sweep.add_argument("--seeds", type=int, default=1, help="tries of each, with another subset and order of rows (default 1)")
    sweep.add_argument("--vary", action="append", default=[], metavar="section.key=A,B", help="values of any other setting")
    sweep.add_argument(
        "--equal", choices=["epochs", "steps", "tokens"],
        help="what trials have in common (default: epochs; steps where train.num_steps is set)",
    )  # fmt: skip
    sweep.add_argument("--lr", help="a learning rate for each size: 1e-4,5e-5,… (default: train.lr for all)")
    sweep.add_argument("--out", type=Path, default=Path("runs/sweep"), help="the sweep's directory (default runs/sweep)")
    sweep.add_argument("--where", default="local", help=WHERE)
    sweep.add_argument("--workers", type=int, help="trials at the same time on this machine (default: one on each GPU, else one)")
    sweep.add_argument("--gpus-per-trial", type=int, default=1, help="2: one trains, vLLM has the other (default 1)")
    sweep.add_argument("--models", choices=["all", "best", "none"], default="all", help="whose trained models stay on the disk")
    sweep.add_argument("--dry-run", action="store_true", help="print every trial with its predicted time and memory, and stop")


def _sweep(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from tutelage.config import Config, load_config
    from tutelage.trials import SETS_ITSELF, Design, parse_rates, parse_sizes, parse_vary

    config = load_config(arguments.config, overrides)
    varied = parse_vary(arguments.vary)
    by_steps = config.train.num_steps is not None or any(key == "train.num_steps" for key, _ in varied)
    kinds: Any = tuple(part.strip() for part in arguments.data.split(","))
    design = Design(
        parse_sizes(arguments.sizes), kinds, arguments.seeds, varied, arguments.equal or ("steps" if by_steps else "epochs"),
        parse_rates(arguments.lr),
    )  # fmt: skip
    for key in ("data.size", "data.filter"):
        if getattr(config.data, key[5:]) != getattr(Config().data, key[5:]):
            print(f"{key} of the configuration is not looked at: {SETS_ITSELF[key]} says it", file=sys.stderr)
    _start()
    from tutelage.sweep import sweep

    sweep(
        config, design, arguments.out, where=arguments.where, workers=arguments.workers,
        gpus_per_trial=arguments.gpus_per_trial, models=arguments.models, dry_run=arguments.dry_run,
    )  # fmt: skip


def _add_eval(commands: Any) -> None:
    evaluate = commands.add_parser("eval", help="grade any model on any data", description=OVERRIDES, allow_abbrev=False)
    evaluate.set_defaults(run=_eval)
    evaluate.add_argument("model", help=MODEL)
    evaluate.add_argument("data", help=DATA)
    evaluate.add_argument("--out", type=Path, help="a new directory for the generations (default: evaluations/…)")
    evaluate.add_argument(
        "--backend",
        choices=["auto", "vllm", "native"],
        help="what generates; vllm: one engine on each GPU in sight (eval.backend)",
    )
    evaluate.add_argument("--where", default="local", help=WHERE)
    evaluate.add_argument("--workers", type=int, default=2, help="with Ray: how many jobs share the problems (default 2)")


def _eval(arguments: argparse.Namespace, overrides: list[str]) -> None:
    _start()
    from tutelage.inference import evaluate_file

    if arguments.backend is not None:
        overrides = [*overrides, f"--eval.backend={arguments.backend}"]
    evaluate_file(arguments.model, arguments.data, overrides, arguments.out, arguments.where, arguments.workers)


def _add_filter(commands: Any) -> None:
    keep = commands.add_parser(
        "filter", help="keep the rows whose worked solution is right", description=OVERRIDES, allow_abbrev=False
    )
    keep.set_defaults(run=_filter)
    keep.add_argument("data", help=DATA)
    keep.add_argument("--out", type=Path, required=True, help="the JSONL file for the rows that are kept")
    keep.add_argument(
        "--control",
        choices=["random"],
        help="also write OUT.control.jsonl: as many rows, drawn at random from all well-formed ones",
    )
    keep.add_argument("--where", default="local", help=WHERE)


def _filter(arguments: argparse.Namespace, overrides: list[str]) -> None:
    from tutelage.config import load_config
    from tutelage.filtering import filter_file

    config = load_config(None, overrides)
    filter_file(arguments.data, arguments.out, config.data, config.eval.reward, arguments.control, arguments.where)


def _add_ask(commands: Any) -> None:
    ask = commands.add_parser("ask", help="ask a model one question", description=OVERRIDES, allow_abbrev=False)
    ask.set_defaults(run=_ask)
    ask.add_argument("model", help=MODEL)
    ask.add_argument("question")


def _ask(arguments: argparse.Namespace, overrides: list[str]) -> None:
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the answer
        _start()
        from tutelage.inference import ask

        answer = ask(arguments.model, arguments.question, overrides)
    print(answer)


def _add_report(commands: Any) -> None:
    report = commands.add_parser("report", help="one self-contained page of a run, an evaluation or a sweep")
    report.set_defaults(run=_report)
    report.add_argument("directory", type=Path, metavar="RUN", help="of a run, of `tutelage eval`, or of a sweep")
    report.add_argument("--out", type=Path, help="the page (default: report.html in the directory)")
    report.add_argument(
        "--price", type=float, metavar="PER_HOUR", help="what an hour of the machine costs (default: run.price_per_hour)"
    )
    report.add_argument("--watch", action="store_true", help="write it again whenever the run gets on, until it is finished")


def _report(arguments: argparse.Namespace, _: list[str]) -> None:
    from tutelage import console, report

    if arguments.price is not None and not arguments.price >= 0:
        raise InputError(f"--price {arguments.price}: a price is not negative")
    write = report.watch if arguments.watch else report.write
    console.say(f"wrote {write(arguments.directory, arguments.out, price_per_hour=arguments.price)}")


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare", help="two evaluations of the same questions: gained, lost, and whether the difference is significant"
    )
    compare.set_defaults(run=_compare)
    compare.add_argument(
        "first", metavar="RUN_A", help="a run, or a directory of `tutelage eval`; RUN@STEP: not its last evaluation"
    )
    compare.add_argument("second", metavar="RUN_B", help="the same, to compare with")
    compare.add_argument("--examples", type=int, default=3, help="problems shown of each kind of change (default 3)")


def _compare(arguments: argparse.Namespace, _: list[str]) -> None:
    from tutelage.compare import compare_runs

    compare_runs(arguments.first, arguments.second, arguments.examples)


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="a Hugging Face directory from a run's checkpoint")
    export.set_defaults(run=_export)
    export.add_argument("directory", type=Path, metavar="RUN", help="a run directory")
    export.add_argument("--step", type=int, help="which checkpoint (default: the run's end, else its newest one)")
    export.add_argument("--out", type=Path, help="a new directory (default: export-step-N in the run directory)")


def _export(arguments: argparse.Namespace, _: list[str]) -> None:
    _start()
    from tutelage.export import export

    print(export(arguments.directory, arguments.step, arguments.out))


def _add_grade(commands: Any) -> None:
    grade = commands.add_parser("grade", help="are two answers equal? prints the verdict and the layer that decided")
    grade.set_defaults(run=_grade)
    grade.add_argument("gold", help="the reference answer")
    grade.add_argument("answer", help="the answer to grade")


def _grade(arguments: argparse.Namespace, _: list[str]) -> None:
    from tutelage.grading import grade

    if not arguments.gold.strip():
        raise InputError("the reference answer is empty")
    verdict = grade(arguments.gold, arguments.answer)
    word = {True: "equal", False: "not equal", None: "undecided"}[verdict.equal]
    print(f"{word}  (layer: {verdict.layer}{'; ' + verdict.why if verdict.why and not verdict.equal else ''})")


def _demo(arguments: argparse.Namespace, _: list[str]) -> None:
    _start()
    from tutelage.demo import demo

    demo()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 (also after SIGTERM to a training run, whose state is saved), 2 for bad input found
    before any compute, 1 after, 130 for Ctrl-C."""
    prepare_process()
    parser = build_parser()
    given = sys.argv[1:] if argv is None else list(argv)
    others, overrides = split_overrides(given)
    try:
        arguments = parser.parse_args(others)
        if arguments.version:
            from importlib.metadata import version

            print(f"tutelage {version('tutelage')}")
            return 0
        if arguments.command is None:
            parser.print_help()
            return 2
        for polite in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(polite, signal.default_int_handler)  # ends as Ctrl-C does; training remembers them instead
        if arguments.command == "train" and arguments.launch is not None:
            return _launch(arguments.launch, given)
        if overrides and arguments.command in WITHOUT_SETTINGS:
            raise InputError(f"tutelage {arguments.command} takes no settings; got {' '.join(overrides)}")
        arguments.run(arguments, overrides)
    except InputError as error:
        _tell(error)
        return 2
    except BrokenPipeError:  # `tutelage … | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (RunError, OSError, MemoryError) as error:
        _tell(error)
        return 1
    except RuntimeError as error:  # torch's, for memory that ran out while a model loads or answers
        from tutelage.model import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        print(f"tutelage: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        _tell(interruption)
        return getattr(interruption, "exit_code", 130)
    return 0


def _tell(error: BaseException) -> None:
    """Print an error that a person is meant to read, unless another rank does."""
    if not getattr(error, "told", False):
        otherwise = "interrupted" if isinstance(error, KeyboardInterrupt) else "out of memory"
        start = "\n" if isinstance(error, KeyboardInterrupt) else ""
        print(f"{start}tutelage: {str(error) or otherwise}", file=sys.stderr)


def _launch(ranks: int, given: Sequence[str]) -> int:
    """The same command, without --launch, as so many ranks."""
    from tutelage.launch import launch

    place = next(index for index, argument in enumerate(given) if argument.partition("=")[0] == "--launch")
    return launch(ranks, [*given[:place], *given[place + (1 if "=" in given[place] else 2) :]])


def _start() -> None:
    """Import torch and transformers, which takes seconds, behind a sign of life."""
    from tutelage import console

    with console.progress("starting"):
        import tutelage.train  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
