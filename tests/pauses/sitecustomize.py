"""On the Python path of a process under test: it stops at a chosen file, so that it can be killed at a known point.

PAUSE_AT=<count> <pattern>: the process that is about to give the count-th file or folder its final name matching the
pattern says so in the folder PAUSE_IN (file `paused`: its process id), and waits there until it is killed.
"""

import fnmatch
import os
import sys
import time

COUNT, _, PATTERN = os.environ.get("PAUSE_AT", "").partition(" ")
FOLDER = os.environ.get("PAUSE_IN", "")


def pause(event: str, arguments: tuple) -> None:
    if event != "os.rename" or not fnmatch.fnmatch(str(arguments[1]), PATTERN):
        return
    with open(f"{FOLDER}/seen", "a+") as seen:  # by all processes of the call together
        seen.write(f"{arguments[1]}\n")
        seen.seek(0)
        count = len(seen.readlines())
    if count == int(COUNT):
        with open(f"{FOLDER}/paused.part", "w") as paused:
            paused.write(str(os.getpid()))
        os.link(f"{FOLDER}/paused.part", f"{FOLDER}/paused")  # appears whole, and is no rename
        time.sleep(900)
        os._exit(1)  # nobody has killed it


if PATTERN:
    sys.addaudithook(pause)
