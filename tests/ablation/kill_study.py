"""Run a study in child processes, killing each at a random moment until enough have been killed.

python kill_study.py KILLS ARGUMENT...

The children are forked after the slow imports, before anything has run. The last line printed is the
number of children killed; the exit status is that of the one that was left to finish.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import train


def main(kills: int, words: list[str]) -> int:
    moments = random.Random(0)
    killed = 0
    while True:
        child = os.fork()
        if child == 0:
            os._exit(train.main(words))
        if killed < kills:
            time.sleep(moments.uniform(0.1, 1.2))
            done, status = os.waitpid(child, os.WNOHANG)
            if not done:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                killed += 1
                continue
        else:
            _, status = os.waitpid(child, 0)
        print(killed, flush=True)
        return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
