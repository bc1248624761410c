"""The commands: for each one, its arguments and what it does. Nothing heavy is imported before a command needs it.

What a command returns is what ``--json`` prints.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import InputError

MODEL = "a run directory, a model directory, a hub name, or smollm2"
DATA = "a file, a directory of shards, a hub name, or arithmetic"
WITHOUT_SETTINGS = ("demo", "init", "grade", "export", "report", "compare", "completion")
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


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train", help="train by a configuration, evaluating while it trains", add_help=False, allow_abbrev=False,
        usage="tutelage train [CONFIG.toml] [--section.key value …]",
        description="Train by a TOML file and overrides. Run again in an unfinished run directory, it goes on from the last checkpoint.",
    )  # fmt: skip
    train.set_defaults(run=_train)
    _json(train)
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


def _train(arguments: argparse.Namespace, overrides: list[str]) -> Any:
    from tutelage.config import load_config

    config = load_config(arguments.config, overrides)
    _start()
    if arguments.replay is not None:
        from tutelage.training import replay_step

        return replay_step(config, arguments.replay)
    from tutelage.report import show
    from tutelage.training import train_one_size

    result = train_one_size(config, allow_changes=arguments.allow)
    show.finished(result.directory, result.evaluations, result.evaluation_cost)
    return {**vars(result), "directory": str(result.directory)}


def _add_demo(commands: Any) -> None:
    commands.add_parser(
        "demo", help="the whole job in about five minutes on two cores: filter, train, evaluate, report"
    ).set_defaults(run=_demo)


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document, and everything else on standard error")


def _config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", nargs="?", help="a TOML file; without one, the defaults")


def _add_init(commands: Any) -> None:
    init = commands.add_parser("init", help="a commented configuration, after three questions and a look at the data")
    init.set_defaults(run=_init)
    init.add_argument("--model", metavar="ID", help="a model directory, a hub name, or smollm2 (default: asks)")
    init.add_argument("--train", metavar="DATA", help=f"{DATA} (default: asks)")
    init.add_argument("--validation", metavar="DATA", help="validation problems (default: a tenth of the training rows)")
    init.add_argument("--dir", help="the run directory (default: asks)")
    init.add_argument("--out", type=Path, default=Path("config.toml"), help="the new file (default config.toml)")


def _init(arguments: argparse.Namespace, _: list[str]) -> None:
    from tutelage.cli.init import init

    answers = {"model": arguments.model, "train": arguments.train, "dir": arguments.dir}
    init(arguments.out, answers, arguments.validation)


def _add_completion(commands: Any) -> None:
    completion = commands.add_parser("completion", help="a completion script for the shell, settings and their choices included")
    completion.set_defaults(run=_completion)
    completion.add_argument("shell", choices=["bash", "zsh"])


def _completion(arguments: argparse.Namespace, _: list[str]) -> None:
    import shtab

    print(shtab.complete(arguments.parser(), shell=arguments.shell))


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check", help="prove on your model, tokenizer and data what the tests prove on ours", allow_abbrev=False,
        description=f"A table of what is proven, failed or not applicable. Exit code 1 if something failed. {OVERRIDES}",
    )  # fmt: skip
    check.set_defaults(run=_check)
    _config(check)
    _json(check)


def _check(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    from tutelage.config import load_config

    config = load_config(arguments.config, overrides)
    _start()
    from tutelage.check import doctor as check

    results = check.check(config)
    check.show(results)
    return check.as_json(results)


def _add_plan(commands: Any) -> None:
    plan = commands.add_parser(
        "plan", help="will it fit, how long will it take, what to change: before anything is computed", allow_abbrev=False,
        description=f"Reckons memory and time of a run on a device, from the model's configuration and the rows' lengths. {OVERRIDES}",
    )  # fmt: skip
    plan.set_defaults(run=_plan)
    _json(plan)
    _config(plan)
    plan.add_argument(
        "--device",
        help="a10g, l4, a100-40, h100, rtx4090, cpu, or the GiB of a GPU (default: where it would run on this machine)",
    )
    plan.add_argument("--gpus", type=int, default=1, help="how many of them; with several, the last one is vLLM's (default 1)")
    plan.add_argument("--length", type=int, metavar="TOKENS", help="plan for rows of so many tokens, without data or tokenizer")
    plan.add_argument(
        "--trace", action="store_true", help="run the step's code on tensors without memory, rather than the formula"
    )
    plan.add_argument("--out", type=Path, help="write the configuration with the proposal in it to this file")


def _plan(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    from tutelage.config import load_config

    config = load_config(arguments.config, overrides)
    _start()
    from tutelage.advice import as_json, plan_run

    return as_json(plan_run(config, arguments.device, arguments.gpus, arguments.length, arguments.trace, arguments.out))


def _add_sweep(commands: Any) -> None:
    sweep = commands.add_parser(
        "sweep", help="accuracy against the number of training rows, raw and filtered, with intervals", allow_abbrev=False,
        description=f"One training run for each size, kind of data, seed and varied setting. Run again, it goes on. {OVERRIDES}",
    )  # fmt: skip
    sweep.set_defaults(run=_sweep)
    _json(sweep)
    _config(sweep)
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


def _sweep(arguments: argparse.Namespace, overrides: list[str]) -> Any:
    from tutelage.config import Config, load_config
    from tutelage.experiments import SETS_ITSELF, Design, parse_rates, parse_sizes, parse_vary

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
    from tutelage.experiments import predict_sweep, run_sweep
    from tutelage.runs import results

    if arguments.dry_run:
        trials = predict_sweep(config, design, arguments.out, arguments.where, arguments.gpus_per_trial, arguments.models)
        return {"directory": str(arguments.out), "trials": trials}
    page = run_sweep(
        config, design, arguments.out, where=arguments.where, workers=arguments.workers,
        gpus_per_trial=arguments.gpus_per_trial, models=arguments.models,
    )  # fmt: skip
    points, verdicts = results.table(arguments.out), results.verdicts(results.points(arguments.out))
    return {"directory": str(arguments.out), "page": str(page), "points": points, "verdicts": verdicts}


def _add_eval(commands: Any) -> None:
    evaluate = commands.add_parser("eval", help="grade any model on any data", description=OVERRIDES, allow_abbrev=False)
    evaluate.set_defaults(run=_eval)
    _json(evaluate)
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


def _eval(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    _start()
    from tutelage.cli.inference import evaluate_file

    if arguments.backend is not None:
        overrides = [*overrides, f"--eval.backend={arguments.backend}"]
    return evaluate_file(arguments.model, arguments.data, overrides, arguments.out, arguments.where, arguments.workers)


def _add_filter(commands: Any) -> None:
    keep = commands.add_parser(
        "filter", help="keep the rows whose worked solution is right", description=OVERRIDES, allow_abbrev=False
    )
    keep.set_defaults(run=_filter)
    _json(keep)
    keep.add_argument("data", help=DATA)
    keep.add_argument("--out", type=Path, required=True, help="the JSONL file for the rows that are kept")
    keep.add_argument(
        "--control",
        choices=["random"],
        help="also write OUT.control.jsonl: as many rows, drawn at random from all well-formed ones",
    )
    keep.add_argument("--where", default="local", help=WHERE)


def _filter(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    from tutelage.cli.filtering import filter_file
    from tutelage.config import load_config

    config = load_config(None, overrides)
    kept = filter_file(arguments.data, arguments.out, config.data, config.eval.reward, arguments.control, arguments.where)
    return {"kept": kept, "out": str(arguments.out)}


def _add_ask(commands: Any) -> None:
    ask = commands.add_parser("ask", help="ask a model one question", description=OVERRIDES, allow_abbrev=False)
    ask.set_defaults(run=_ask)
    ask.add_argument("model", help=MODEL)
    ask.add_argument("question")


def _ask(arguments: argparse.Namespace, overrides: list[str]) -> None:
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for the answer
        _start()
        from tutelage.cli.inference import ask

        answer = ask(arguments.model, arguments.question, overrides)
    print(answer)


def _add_report(commands: Any) -> None:
    report = commands.add_parser("report", help="one self-contained page of a run, an evaluation or a sweep")
    report.set_defaults(run=_report)
    _json(report)
    report.add_argument("directory", type=Path, metavar="RUN", help="of a run, of `tutelage eval`, or of a sweep")
    report.add_argument("--out", type=Path, help="the page (default: report.html in the directory)")
    report.add_argument(
        "--price", type=float, metavar="PER_HOUR", help="what an hour of the machine costs (default: run.price_per_hour)"
    )
    report.add_argument("--watch", action="store_true", help="write it again whenever the run gets on, until it is finished")


def _report(arguments: argparse.Namespace, _: list[str]) -> dict[str, Any]:
    from tutelage import console
    from tutelage.report import page as report

    if arguments.price is not None and not arguments.price >= 0:
        raise InputError(f"--price {arguments.price}: a price is not negative")
    write = report.watch if arguments.watch else report.write
    page = write(arguments.directory, arguments.out, price_per_hour=arguments.price)
    console.say(f"wrote {page}")
    return {"page": str(page)}


def _add_compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare", help="two evaluations of the same questions: gained, lost, and whether the difference is significant"
    )
    compare.set_defaults(run=_compare)
    _json(compare)
    compare.add_argument(
        "first", metavar="RUN_A", help="a run, or a directory of `tutelage eval`; RUN@STEP: not its last evaluation"
    )
    compare.add_argument("second", metavar="RUN_B", help="the same, to compare with")
    compare.add_argument("--examples", type=int, default=3, help="problems shown of each kind of change (default 3)")


def _compare(arguments: argparse.Namespace, _: list[str]) -> dict[str, Any]:
    from tutelage.runs import as_json, compare_runs

    return as_json(compare_runs(arguments.first, arguments.second, arguments.examples))


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="a Hugging Face directory from a run's checkpoint")
    export.set_defaults(run=_export)
    _json(export)
    export.add_argument("directory", type=Path, metavar="RUN", help="a run directory")
    export.add_argument("--step", type=int, help="which checkpoint (default: the run's end, else its newest one)")
    export.add_argument("--out", type=Path, help="a new directory (default: export-step-N in the run directory)")


def _export(arguments: argparse.Namespace, _: list[str]) -> dict[str, Any]:
    _start()
    from tutelage.cli.export import export

    directory = export(arguments.directory, arguments.step, arguments.out)
    print(directory)
    return {"directory": str(directory)}


def _add_grade(commands: Any) -> None:
    grade = commands.add_parser("grade", help="are two answers equal? prints the verdict and the layer that decided")
    grade.set_defaults(run=_grade)
    _json(grade)
    grade.add_argument("gold", help="the reference answer")
    grade.add_argument("answer", help="the answer to grade")


def _grade(arguments: argparse.Namespace, _: list[str]) -> dict[str, Any]:
    from tutelage.grading import grade

    if not arguments.gold.strip():
        raise InputError("the reference answer is empty")
    verdict = grade(arguments.gold, arguments.answer)
    word = {True: "equal", False: "not equal", None: "undecided"}[verdict.equal]
    print(f"{word}  (layer: {verdict.layer}{'; ' + verdict.why if verdict.why and not verdict.equal else ''})")
    return {"equal": verdict.equal, "layer": verdict.layer, "why": verdict.why}


def _demo(arguments: argparse.Namespace, _: list[str]) -> None:
    _start()
    from tutelage.cli.demo import demo

    demo()


def _start() -> None:
    """Import torch and transformers, which takes seconds, behind a sign of life."""
    from tutelage import console

    with console.progress("starting"):
        from tutelage.training import train_one_size  # noqa: F401


ADD = (
    _add_demo, _add_init, _add_plan, _add_check, _add_train, _add_sweep, _add_eval, _add_filter, _add_ask, _add_report, _add_compare,
    _add_export, _add_grade, _add_completion,
)  # fmt: skip
"""What adds each command to a parser, in the order in which `--help` lists them."""
