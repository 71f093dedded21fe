"""Several processes at once in the same directories: each knows what its own files must hold, all get in each other's way.

Usage: crowd.py FOLDER [--processes N] [--operations N | --seconds N]

Half of the operations are on files of the process itself, half on names that all fight for, where every outcome is right but a
wrong one: an errno that the operation cannot have, or a shared file that holds something other than one writer's whole text. At the
end every own file is compared, and the folder is walked.
"""

import argparse
import errno
import itertools
import os
import random
import sys
import time
from multiprocessing import Process

SHARED_NAMES = 12
# What a race may answer.
RACE = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.EINVAL, errno.EBUSY, errno.EPERM,
        errno.EXDEV, errno.ELOOP, errno.ESTALE}
NOT_RACE = {errno.ESTALE, errno.EXDEV, errno.EBUSY}


def shared_text(number):
    return f"{number:08} ".encode() * (number % 900 + 1)


class Worker:
    def __init__(self, folder, number, operations, seconds):
        self.random = random.Random(number)
        self.folder = folder
        self.number = number
        self.operations = operations
        self.seconds = seconds
        self.own = {}
        self.serial = 0

    def run(self):
        end = time.monotonic() + self.seconds if self.seconds else None
        for step in itertools.count() if end else range(self.operations):
            if end and time.monotonic() > end:
                break
            try:
                (self.step_own if self.random.random() < 0.5 else self.step_shared)()
            except OSError as error:
                self.fail(step, f"{error}")
        for name, data in self.own.items():
            with open(name, "rb") as file:
                if file.read() != data:
                    self.fail(self.operations, f"{name} is not what was written")

    def fail(self, step, what):
        sys.exit(f"process {self.number}, operation {step}: {what}")

    def place(self):
        """The own names lie among everybody's."""
        self.serial += 1
        return f"{self.folder}/{self.random.randrange(4)}/own {self.number} {self.serial}"

    def step_own(self):
        pick = self.random.choice(list(self.own)) if self.own else None
        action = self.random.randrange(7)
        if pick is None or (action == 0 and len(self.own) < 200):
            name = self.place()
            data = self.random.randbytes(self.random.choice([0, 10, 3000, 5000, 70000]))
            with open(name, "xb") as file:
                file.write(data)
            self.own[name] = data
        elif action == 1:
            name = self.place()
            os.rename(pick, name)
            self.own[name] = self.own.pop(pick)
        elif action == 2:
            os.unlink(pick)
            del self.own[pick]
        elif action == 3:
            data = self.random.randbytes(self.random.randrange(1, 9000))
            with open(pick, "ab") as file:
                file.write(data)
            self.own[pick] += data
        elif action == 4:
            data = bytearray(self.own[pick])
            offset = self.random.randrange(len(data) + 5000)
            piece = self.random.randbytes(self.random.randrange(1, 5000))
            data.extend(bytes(max(0, offset + len(piece) - len(data))))
            data[offset : offset + len(piece)] = piece
            with open(pick, "r+b") as file:
                file.seek(offset)
                file.write(piece)
                if self.random.random() < 0.2:
                    file.flush()
                    os.fsync(file.fileno())
            self.own[pick] = bytes(data)
        elif action == 5:
            size = self.random.randrange(20000)
            os.truncate(pick, size)
            self.own[pick] = self.own[pick][:size].ljust(size, b"\0")
        else:
            with open(pick, "rb") as file:
                if file.read() != self.own[pick]:
                    raise OSError(errno.EIO, f"{pick} is not what was written")

    def step_shared(self):
        name = lambda: f"{self.folder}/{self.random.randrange(4)}/shared {self.random.randrange(SHARED_NAMES)}"
        action = self.random.randrange(9)
        try:
            if action == 0:
                # Written aside and moved into place, as programs do: whoever reads sees one whole text.
                aside = self.place()
                with open(aside, "xb") as file:
                    file.write(shared_text(self.random.randrange(10**8)))
                try:
                    os.rename(aside, name())
                except OSError:
                    os.unlink(aside)
                    raise
            elif action == 1:
                os.unlink(name())
            elif action == 2:
                os.mkdir(name())
            elif action == 3:
                os.rmdir(name())
            elif action == 4:
                os.rename(name(), name())
            elif action == 5:
                os.link(name(), name(), follow_symlinks=False)
            elif action == 6:
                os.symlink("nowhere", name())
            elif action == 7:
                os.listdir(f"{self.folder}/{self.random.randrange(4)}")
            else:
                with open(name(), "rb") as file:
                    text = file.read()
                if text != shared_text(int(text[:8] or b"-1")):
                    raise OSError(errno.EIO, f"a shared file holds {text[:40]}")
        except OSError as error:
            if error.errno not in RACE - NOT_RACE:
                raise


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--operations", type=int, default=5000)
    parser.add_argument("--seconds", type=float)
    arguments = parser.parse_args()
    for number in range(4):
        os.makedirs(f"{arguments.folder}/{number}")
    processes = [
        Process(target=Worker(arguments.folder, number, arguments.operations, arguments.seconds).run)
        for number in range(arguments.processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit("at least one process failed")
    for folder, folders, names in os.walk(arguments.folder):
        for name in folders + names:
            os.lstat(os.path.join(folder, name))


if __name__ == "__main__":
    main()
