"""Run tests/tiny_train.py again and again, cut off at every step it takes in its folders.

    python tests/cut_off.py STRIDE FINISHED FLAG...

In the folders 0, 1, 2 ... of the current one, each a copy of the folder FINISHED, a
run is killed before step 0, STRIDE, 2 * STRIDE ... and resumed, or started once more where all that
lies there is the other, finished run. The last line printed is how many were killed. Python reports
each such step to an audit hook, which also ends a run that opens anything but a temporary file or
its lock for writing.
"""

import importlib
import itertools
import os
import shutil
import signal
import sys
from pathlib import Path

from tiny_train import RECIPE, TinyNet

from chestlab.files.atomic import TEMPORARY_SUFFIX
from chestlab.runs import checkpoints
from chestlab.runs.run import run

STEPS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate"}


def cut_off_before(step):
    """Kill this process when it is about to take its step number ``step``."""
    here = Path.cwd()
    count = itertools.count()

    def hook(event, arguments):
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event not in STEPS and not writes:
            return
        path = Path("" if isinstance(arguments[0], int) else os.fsdecode(arguments[0]))
        if here not in (here / path).parents:
            return
        if writes and path.suffix not in (TEMPORARY_SUFFIX, ".lock"):
            print(f"'{path}' is written in place", file=sys.stderr, flush=True)
            os._exit(1)
        if next(count) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def life(folder, flags, step=None):
    """Run the script in a process of its own and return how it ended."""
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        if step is not None:
            cut_off_before(step)
        try:
            run(TinyNet, {"report": RECIPE}, flags)
            os._exit(0)
        except SystemExit as end:
            os._exit(end.code)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    stride, finished, *flags = sys.argv[1:]
    for module in ("filelock", "sklearn.metrics", "tqdm", "visualize"):
        importlib.import_module(module)  # once, instead of in every child
    checkpoints.BETWEEN = 0.0  # every epoch is written
    for cuts in itertools.count():
        folder = Path(str(cuts))
        shutil.copytree(finished, folder)
        status = life(folder, [*flags, "--overwrite"], step=cuts * int(stride))
        if status == 0:
            break
        if status == -signal.SIGKILL:
            status = life(folder, [*flags, "--resume"])
        if status == 2:
            status = life(folder, [*flags, "--overwrite"])
        if status:
            sys.exit(f"in folder {folder}: exit status {status}")
    print(cuts)


if __name__ == "__main__":
    main()
