"""``find-label-errors``: its help, its errors, and how it trains. Light until all is clear."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rethinkgen import configs
from rethinkgen.console import say, say_command, say_error, take_any_encoding
from rethinkgen.errors import USERS_MISTAKE, exit_code_of, is_users_mistake
from rethinkgen.run.command import command_line, noted_program, typed

HELP = """\
Find the wrong labels in a folder of images: train a network on it, and list what it doubted most while it learnt.

  PROGRAM FOLDER [key=value ...]

FOLDER has a folder for each class, or a train and a test part with these, or is a CSV file with the columns path and
label. Without one, any data of ours: data=mnist. Or it is the folder of finished runs, which are not trained again.

  runs=3          train so often, each time with another seed, and average the ranks (default 1); costs 3 trainings
  folds=5         also ask of each image a network that was not trained on it (default 0); costs 4 trainings
  control=SHARE   in one more training, make so many labels wrong on purpose, and tell how many of these are found: how
                  far to believe the list (default 0.02, at least 20 images; false leaves it out); costs 1 training
  export=NAME     also write cleanlab.csv (cleanlab) or fiftyone.csv (fiftyone), or both (cleanlab,fiftyone)
  key=value       any key of train.py, such as model=resnet18 model.weights=PATH max_epochs=20 data.num_train=5000

It leaves suspects.csv and index.html in multirun/label_errors-NAME (results_dir=..., sweep=... name another), where
the trainings lie too: stopped, the same command goes on.
"""


def main(arguments: Sequence[str], program: Sequence[str] = ("find_label_errors.py",)) -> int:
    """Find what ``arguments`` ask for; return the exit code, 2 where they cannot be met.

    ``program`` is what was called: a script, or the console command and its verb.
    """
    take_any_encoding()
    before = sys.argv
    with typed(program, arguments):
        if not arguments or {"-h", "--help"} & set(arguments):
            say(HELP.replace("PROGRAM", shlex.join(noted_program())), end="")
            return 0
        try:
            from rethinkgen.label_errors.asked import Asked
            from rethinkgen.label_errors.search import search

            search(Asked.of(arguments), trainer(program))
        except SystemExit as ended:  # of a training, which has said why
            say_command("The search goes on from there with the same command:", command_line())
            return int(ended.code or 0)
        except KeyboardInterrupt as error:
            say_command("The search goes on from there with the same command:", command_line())
            return exit_code_of(error)
        except Exception as error:
            if not is_users_mistake(error):
                raise
            say_error(error)
            return USERS_MISTAKE if isinstance(error, ValueError) else exit_code_of(error)
        finally:
            sys.argv = before
    return 0


def trainer(program: Sequence[str]) -> Callable[[Sequence[str]], None]:
    """Return what trains the runs of a sweep, as the command beside this one does."""
    called = [program[0], "train"] if len(program) > 1 else [str(Path(program[0]).with_name("train.py"))]

    def train(arguments: Sequence[str]) -> None:
        from rethinkgen.commands.train import train as of_config
        from rethinkgen.run import entry

        sys.argv = [called[0], "-m", *arguments]
        entry.command_line(of_config, configs.folder(), called)

    return train
