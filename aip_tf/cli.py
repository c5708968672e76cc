"""`aip_run`: an experiment named by gin files, from the command line.

Exit codes: 0 done, 1 the run failed, 2 the command or the configuration is wrong, 130 interrupted.
"""

import logging
import os
import shlex
import sys
import traceback
import warnings
from pathlib import Path

from absl import flags

from aip_tf import failures, files, interruption

HELP = """\
aip_run makes a Keras CNN smaller and faster and keeps its accuracy.

A gin file describes an experiment: data, teacher, schedule of cuts, recovery, export.

  aip_run --gin_file=gin/digits.gin                       one minute on two cores, no download
  aip_run --gin_file=gin/digits.gin --dry_run             what it would cut, and when; no training
  aip_run --gin_file=gin/digits.gin --gin_param='seed = 1' --run_dir=runs/digits_1

  Your own network and images (a folder with one folder per class):

  aip_run --gin_file=gin/my_model.gin --gin_param='load_model.source = "model.keras"' \\
      --gin_param='image_folder.directory = "photos"'

  Runs that are complete, beside each other, and on a page comparison.html:

  aip_run --compare runs/digits runs/digits_1

The same command again goes on where the run stopped; a finished run is only reported.
Ctrl-C, or SIGTERM, ends after the batch at hand, when what is finished is saved; a second Ctrl-C
ends at once. Exit codes: 0 done, 1 the run failed, 2 the command or the configuration is wrong,
130 interrupted. gin files are looked for from the working directory, then among those of the
package. They are code: they can import modules, so run only files that you trust.
"""


def program():
    """`aip_run` as a process of its own: a signal while Python shuts down changes no exit code."""
    code = main()
    interruption.ignore()
    return code


def main(arguments=None):
    """Run the command line; returns its exit code.

    Args:
        arguments: list of str without the program's name; those of the process by default.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _flags()
    try:
        unexpected = options(["aip_run", *arguments])[1:]
    except flags.Error as error:
        return _fail(f"{error}. See aip_run --help.", code=2)
    if options.help:
        print(f"{HELP}\nFlags:\n{_flags_help(options)}")
        return 0
    if options.compare:
        return _compare(unexpected, options.run_dir)
    if unexpected or not options.gin_file:
        return _fail(_usage_error(unexpected), code=2)
    return _guarded(options, arguments)


def _compare(folders, place):
    """Print the table of several runs and write their page, in `place` or where they all are."""
    from aip_tf import files
    from aip_tf.report import compare_runs

    try:
        comparison = compare_runs(folders)
        around = os.path.commonpath([os.path.dirname(os.path.abspath(x)) for x in folders])
        page = files.expand(place or around) / "comparison.html"
        files.write_text(page, comparison.to_html())
    except ValueError as error:
        return _fail(str(error), code=2)
    print(comparison.render())
    print(f"\n{page}")
    return 0


def _flags():
    """The flags of aip_run, apart from those that other libraries define for the process."""
    options = flags.FlagValues()
    for define, name, default, text in (
        (flags.DEFINE_multi_string, "gin_file", [], "A gin file, several are read in order"),
        (
            flags.DEFINE_multi_string,
            "gin_param",
            [],
            "A binding, read after the files, so it wins",
        ),
        (
            flags.DEFINE_string,
            "run_dir",
            None,
            "Folder of the run, default runs/<gin file's name>",
        ),
        (
            flags.DEFINE_boolean,
            "dry_run",
            False,
            "Show configuration, channel groups and cuts without training",
        ),
        (
            flags.DEFINE_boolean,
            "overwrite",
            False,
            "Do anew what differs from the run in run_dir, which is refused otherwise",
        ),
        (flags.DEFINE_boolean, "compare", False, "Compare the run directories that are named"),
        (flags.DEFINE_boolean, "verbose", False, "Show the terms of the loss after every epoch"),
        (flags.DEFINE_boolean, "traceback", False, "Show Python's traceback with an error"),
    ):
        define(name, default, text, flag_values=options)
    flags.DEFINE_boolean("help", False, "Show this text", short_name="h", flag_values=options)
    return options


def _flags_help(options):
    shown = (
        "gin_file",
        "gin_param",
        "run_dir",
        "dry_run",
        "overwrite",
        "compare",
        "verbose",
        "traceback",
        "help",
    )
    return "\n".join(f"  --{name:<10} {options[name].help.partition(';')[0]}" for name in shown)


def _usage_error(unexpected):
    if unexpected:
        return f"Unexpected {unexpected[0]!r}. Expected flags, such as --gin_file={unexpected[0]}."
    return "No --gin_file. Try aip_run --gin_file=gin/digits.gin, or aip_run --help."


def _guarded(options, arguments):
    """Start, and put every ending that is not the planned one into one paragraph."""
    run_dir = options.run_dir
    if run_dir is None:
        run_dir = str(Path("runs") / (Path(options.gin_file[-1]).stem or "run"))
    try:
        folder = str(files.expand(run_dir))
    except ValueError as error:
        return _fail(str(error), code=2)
    try:
        with interruption.noted(_tell):
            return _start(options, folder)
    except BaseException as error:
        # Whatever was made of an interruption on its way here, it is one.
        if isinstance(error, KeyboardInterrupt) or interruption.is_requested():
            command = shlex.join(["aip_run", *arguments])
            text = f"Interrupted. The same command goes on from {run_dir}: {command}"
            return _fail(text, code=interruption.EXIT_CODE)
        if options.traceback or not isinstance(error, Exception):
            raise
        return _explain(error)


def _start(options, run_dir):
    try:
        config = _config()
    except ImportError as error:
        interruption.answer()  # this may be what an import made of it
        return _fail(f"{error}. Install aip_tf with its dependencies: pip install .", code=1)
    interruption.answer()
    _quiet_libraries()
    configuration = config.load(options.gin_file, options.gin_param, weights=not options.dry_run)
    if options.dry_run:
        print(configuration)
        print(config.describe(run_dir))
        return 0
    _show_progress(options.verbose)
    _print_outcome(config.run(run_dir, configuration, options.overwrite), run_dir)
    return 0


def _explain(error):
    text = failures.explain(error)
    if text is not None:
        return _fail(text, code=getattr(error, "exit_code", 1))
    traceback.print_exception(error)
    return _fail(failures.BUG_REPORT, code=1)


def _config():
    """Import TensorFlow only now, so that --help answers at once, and without its C++ chatter.

    Some of its lines are written before any log level is read, hence the detour of the stream.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:  # whoever sets it wants to see the log
        from aip_tf import config

        return config
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        from aip_tf import config
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
    return config


def _show_progress(verbose):
    """Let the library's one line per round, and its warnings, through to the terminal."""
    logger = logging.getLogger("aip_tf")
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]  # one, of today's stdout, however often `main` is called
    logger.propagate = False


def _quiet_libraries():
    """Leave out what TensorFlow and Keras say that no user can do anything about."""
    # Every cut makes a new network: that its functions are traced anew is no news.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    # A compiled model that was never trained has no state of its optimizer; a run makes its own.
    warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")


def _print_outcome(outcome, run_dir):
    if outcome.paths:
        print(f"run directory  {run_dir}\n")
    print(outcome.report.render())  # its last line is what was gained


def _tell(sentence):
    print(f"\naip_run: {sentence}", file=sys.stderr, flush=True)


def _fail(message, code):
    print(f"aip_run: {message}", file=sys.stderr)
    return code
