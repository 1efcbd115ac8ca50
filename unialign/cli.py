"""The command line: parse, call the pipeline, print, exit code. Imports no network library at start-up."""

import io
import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from unialign import __version__, console
from unialign.cache.access import explained
from unialign.commands import (
    baseline,
    cache,
    config,
    corpus,
    data,
    evaluate,
    export,
    extract,
    init,
    models,
    pages,
    predict,
    results,
    run,
    runs,
    train,
    weights,
)
from unialign.commands.options import (
    CONTEXT,
    AsJson,
    Cache,
    Command,
    ConfigFile,
    DatasetName,
    Group,
    Root,
    resolve,
)
from unialign.errors import UnialignError, UsageError
from unialign.extras import missing_extra

# In help: in the order of the work, not of the code.
ORDER = (
    "demo",
    "doctor",
    "init",
    "run",
    "data",
    "extract",
    "cache",
    "baseline",
    "train",
    "ablate",
    "evaluate",
    "report",
    "browse",
    "predict",
    "export",
    "runs",
    "why",
    "results",
    "models",
    "config",
)


class AllCommands(Group):
    """All commands."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order that they are used in; those that have no place in it come last."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    cls=AllCommands,
    no_args_is_help=True,
    context_settings=CONTEXT,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 done with quarantined samples, 4 cache unusable, 130 interrupted. "
    "Example: unialign demo",
)
app.add_typer(extract.app, name="extract")
app.add_typer(cache.app, name="cache")
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")
app.add_typer(runs.app, name="runs")
init.add_commands(app)
run.add_commands(app)
train.add_commands(app)
evaluate.add_commands(app)
pages.add_commands(app)
predict.add_commands(app)
export.add_commands(app)
results.add_commands(app)
baseline.add_commands(app)
models.add_commands(app)
corpus.add_commands(app)
weights.add_commands(app)


def _version(wanted: bool) -> None:
    if wanted:
        console.output.print(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Extract poses, features, text and frames once; train and compare alignment models on the cache.

    `unialign demo` shows everything in a few minutes. `unialign COMMAND --help` describes a command.
    """


@app.command("doctor", cls=Command, epilog="Example: unialign doctor extract poses")
def doctor(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND|KEY=VALUE",
            help="A command to check for, such as `extract poses` or `train`, and values of the configuration.",
            show_default=False,
        ),
    ] = None,
    dataset: DatasetName = None,
    root: Root = None,
    cache: Cache = None,
    as_json: AsJson = False,
    config: ConfigFile = None,
) -> None:
    """Check the installation, or what one command needs.

    Says what is installed, whether a clip can be encoded and decoded, which devices and drivers there are, how many
    frames per second they decode and compute, how much room there is, and which data, weights and stores are missing.
    """
    command = [word for word in words or () if "=" not in word]
    overrides = [word for word in words or () if "=" in word]
    resolved = resolve(config, overrides, dataset=dataset, data=root, cache=cache)
    if command:
        if command[0] not in typer.main.get_command(app).commands:  # type: ignore[attr-defined] # it is a group
            raise UsageError(f"`unialign {command[0]}` is no command; `unialign --help` lists them.")
        from unialign.pipeline.needs import needs

        _show_checks({"command": " ".join(command), "checks": needs(resolved, command)}, as_json)
        return
    from unialign.pipeline.doctor import diagnose

    if not as_json:
        console.say("measuring what this machine decodes and computes, for up to 20 s")
    found = diagnose(resolved)
    if not as_json:
        paths = {name: path or "not set" for name, path in found["paths"].items()}
        rates = {
            name: f"{rate:,.{0 if rate >= 10 else 1}f} frames/s" if isinstance(rate, float) else rate or "-"
            for name, rate in found["rates"].items()
        }
        extras = {
            f"[{name}]": f"lacks {', '.join(missing)}" if missing else "complete"
            for name, missing in found["extras"].items()
        }
        free = {
            f"free {name}": console.human_bytes(size) if size else "unknown" for name, size in found["free"].items()
        }
        devices = {"devices": ", ".join(found["devices"])}
        console.show_fields({**found["environment"], **devices, **extras, **free, **rates, **paths})
    _show_checks(found, as_json)
    if "error" in found:
        console.messages.print(f"error: {found['error']}", style="red")
        raise typer.Exit(found["exit_code"])


def _show_checks(found: Any, as_json: bool) -> None:
    if as_json:
        console.show_json(found)
        return
    rows = [(check["check"], "yes" if check["ok"] else "no", check["advice"]) for check in found["checks"]]
    console.show_table("ready", ("part", "ready", "if not"), rows)


# Typer brings a copy of Click in some versions and uses the package in others.
WrongWords: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


class Interrupted(BaseException):
    """SIGINT or SIGTERM; not a `KeyboardInterrupt`, which the command-line library would turn into exit code 1."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _installed(commands: Any) -> Any:
    """Run the command line. Raises `UsageError` that says which extra to install where a library is missing."""
    try:
        return commands(standalone_mode=False)
    except ModuleNotFoundError as error:
        named = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
        lacking = missing_extra(error, f"unialign {named}".strip())
        if lacking is None:
            raise
        raise lacking from error


def _show_last(value: dict[str, Any]) -> None:
    """A JSON object, if standard output is not what cannot be written; the sentence on standard error comes anyway."""
    try:
        console.show_json(value)
        sys.stdout.flush()
    except OSError:
        # What is still in its buffer would fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _let_waiting_threads_sleep() -> None:
    """Have threads of a network that wait for each other spin for a short while, and then sleep.

    By default libgomp spins 30 times as long, which takes the processor from the threads that are waited for where
    others use it too. Without any spinning, each of the many short operations would wait for a wake-up. The variable is
    read when torch is loaded.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def main() -> None:
    """Entry point: runs the command line and turns expected errors into one sentence and their exit code."""
    _let_waiting_threads_sleep()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    as_json = "--json" in sys.argv
    # A terminal or a file whose encoding lacks a character of a name.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        # Returns the code of a `typer.Exit`, None without one; whatever else ends a command is raised.
        sys.exit(_installed(app) or 0)
    except WrongWords as error:
        # Before anything is parsed, so that even an unknown flag gets its object.
        if as_json:
            _show_last({"error": error.format_message(), "exit_code": error.exit_code})
        usage = getattr(error, "ctx", None)
        if usage is not None and error.format_message() == usage.get_help():
            # A group without a command: its help, which says what is missing.
            console.messages.print(error.format_message())
            sys.exit(error.exit_code)
        if usage is not None:
            console.messages.print(f"{usage.get_usage()}\nTry '{usage.command_path} --help' for help.")
        console.messages.print(f"error: {error.format_message()}", style="red")
        sys.exit(error.exit_code)
    except UnialignError as error:
        if as_json:
            _show_last({"error": str(error), "exit_code": error.exit_code})
        console.messages.print(f"error: {error}", style="red")
        sys.exit(error.exit_code)
    except OSError as error:
        # A full disk, a lost mount, a missing permission: expected here, and not a bug.
        if as_json:
            _show_last({"error": f"{explained(error)}.", "exit_code": 1})
        console.messages.print(f"error: {explained(error)}.", style="red")
        sys.exit(1)
    except Interrupted as interrupted:
        # Everything is closed; a second signal ends the rest, including the interpreter's shutdown, silently.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        # The interrupted code has noted what is kept and where it resumes, the innermost first.
        notes = getattr(interrupted, "__notes__", None) or [
            "what is stored so far is kept, and the same command goes on from there."
        ]
        console.messages.print(f"interrupted; {' '.join(notes)}", style="yellow")
        sys.exit(interrupted.exit_code)


if __name__ == "__main__":
    main()
