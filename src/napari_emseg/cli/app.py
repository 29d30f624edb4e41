"""Words of a command line in, an exit code out; each command is loaded when called.

Exit codes: 0 done; 1 the work failed (damaged file, no space left, out of memory);
2 the call is wrong (missing file, unknown name, value out of range, output exists);
130 stopped by Ctrl-C; 143 by SIGTERM.
"""

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from napari_emseg._installed import (
    RequirementError,
    __version__,
    naming_versions,
)
from napari_emseg.cli.printing import (
    complain,
    give_up,
    usage_message,
    write_what_can_be_written,
)
from napari_emseg.cli.progress import exit_code, interrupt_on_sigterm, keep_exit_code
from napari_emseg.core.errors import WorkFailedError
from napari_emseg.io.errors import AmbiguousFileError

DONE, FAILED, WRONG_USAGE = 0, 1, 2

COMMANDS = {
    "demo": ("Do the main job on the bundled EM stack.", "emseg demo"),
    "check": (
        "Look for blank, blurred and shifted sections.",
        "emseg check demo-output/em.tif",
    ),
    "predict": (
        "Predict the probability of membrane.",
        "emseg predict demo-output/em.tif membranes.tif",
    ),
    "segment": (
        "Make cells from an EM stack or from probabilities.",
        "emseg segment demo-output/em.tif cells.tif --input-is em",
    ),
    "export": (
        "Write a file for Fiji, IMOD, webKnossos, Neuroglancer and others.",
        "emseg export demo-output/cells.tif cells.mrc",
    ),
    "meshes": (
        "Write the surfaces of 3-D cells.",
        "emseg meshes demo-output/cells.tif cell-meshes --largest 5",
    ),
    "batch": (
        "Find membranes and cells of many stacks, unattended.",
        "emseg batch demo-output/em.tif --out results",
    ),
    "evaluate": (
        "Score a prediction against a truth.",
        "emseg evaluate demo-output/membranes.tif demo-output/truth.tif "
        "--truth-is membrane",
    ),
    "train": (
        "Train a network on images and labels.",
        "emseg train demo-output/em.tif demo-output/truth.tif mine.safetensors "
        "--labels-are membrane --steps 10 --patch 64",
    ),
    "finetune": (
        "Let weights learn from corrections.",
        "emseg finetune demo-output/em.tif demo-output/truth.tif tuned.safetensors "
        "--labels-are membrane --weights isbi2012-unet --steps 2 --patch 64",
    ),
    "learn-edges": (
        "Let a classifier of edges learn from corrected cells.",
        "emseg learn-edges demo-output/membranes.tif demo-output/neurites.tif "
        "edges.json",
    ),
    "weights": ("List, show, cut, import and export weights.", "emseg weights list"),
    "project": (
        "Make and show project folders, and merge two people's.",
        "emseg project new demo-output/em.tif vnc.emseg",
    ),
    "doctor": ("Say what works on this machine and what doesn't.", "emseg doctor"),
}
"""Name: (one line, an example that works after `emseg demo`)."""

GROUPS = ("weights", "project")

HELP = {"--help", "-h"}

MODULES = {"meshes": "export"}
"""Where a command isn't in a module of its own name."""


def build_app(called: str = "") -> App:
    """Return the application; a command's module is imported when it is called.

    The one that is called speaks for itself, by its docstring.
    """
    app = App(
        name="emseg",
        help="Membranes and cells from electron-microscopy stacks.",
        help_epilogue="Begin with: emseg demo",
        version=__version__,
        help_format="markdown",
        default_parameter=Parameter(negative_iterable=(), negative_none=()),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for name, (summary, example) in COMMANDS.items():
        called_by = name.replace("-", "_")
        place = f"napari_emseg.cli.{MODULES.get(name, called_by)}:{called_by}"
        brief = None if name == called else summary
        if name in GROUPS:  # with commands of their own, each with an example
            app.command(f"napari_emseg.cli.{name}:app", name=name, help=brief)
        else:
            epilogue = f"Example: {example}"
            app.command(place, name=name, help=brief, help_epilogue=epilogue)
    return app


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    words
        None where this is the whole program: those it was called with.
    """
    if words is not None:
        return _run(list(words))
    with keep_exit_code() as keep:
        return keep(_run(sys.argv[1:]))


def _run(words: list[str]) -> int:
    write_what_can_be_written()
    try:
        with interrupt_on_sigterm(), naming_versions():
            if _called(words) and not HELP & set(words):
                # what reads and writes files takes half a second to load
                from napari_emseg.io.compressed import clear_scratch

                clear_scratch()
            code = build_app(_called(words))(_with_new_names(words))
            sys.stdout.flush()
    except BrokenPipeError:  # `emseg … | head`: the reader has had enough
        give_up(sys.stdout)
        return DONE
    except KeyboardInterrupt as e:
        complain(str(e) or "by Ctrl-C", kind="stopped")
        return exit_code(e)
    except CycloptsError as e:
        return _refuse(usage_message(e), words)
    except _wrong_files() as e:
        return _refuse(usage_message(e), words)
    except WorkFailedError as e:
        complain(usage_message(e))
        return FAILED
    except (PermissionError, AmbiguousFileError, ValueError, LookupError) as e:
        return _refuse(usage_message(e), words)
    except RequirementError as e:  # words for others need what can't be imported
        complain(str(e))
        return FAILED
    except (OSError, MemoryError, RuntimeError) as e:
        complain(usage_message(e))
        return FAILED
    return code if isinstance(code, int) else DONE


def _with_new_names(words: list[str]) -> list[str]:
    """Replace options of runs that have become others; scripts still use them."""
    if _called(words) not in ("predict", "segment", "batch"):
        return words
    found: list[str] = []
    for word in words:
        name, _, value = word.partition("=")
        off = (name == "--no-half-precision") != (value.lower() in ("false", "no", "0"))
        if name not in ("--half-precision", "--no-half-precision"):
            found.append(word)
        elif off:
            found.append("--precision=float32")
    return found


def _wrong_files() -> tuple[type[OSError], ...]:
    """Return errors of files that the call is to blame for; asked if there is one."""
    from napari_emseg.core.lock import OutputBusyError

    return (
        FileNotFoundError,
        FileExistsError,
        IsADirectoryError,
        NotADirectoryError,
        OutputBusyError,
    )


def _called(words: Sequence[str]) -> str:
    return next((word for word in words if word in COMMANDS), "")


def _refuse(message: str, words: Sequence[str]) -> int:
    complain(message, hint=f"see: {' '.join(('emseg', *_command(words)))} --help")
    return WRONG_USAGE


def _command(words: Sequence[str]) -> tuple[str, ...]:
    """Return the words that name a command, of a group with the one within it."""
    called = _called(words)
    if called not in GROUPS:
        return (called,) if called else ()
    within = build_app(called)[called]
    after = words[list(words).index(called) + 1 :]
    named = (w for w in after if not w.startswith("-"))
    first = next(named, "")
    return (called, first) if first in set(within) else (called,)
