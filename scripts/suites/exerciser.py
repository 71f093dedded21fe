"""Random operations on one file, held against a model in memory: what fsx does not do.

Usage: exerciser.py FILE [--operations N] [--seeds N] [--direct]

fallocate in each mode that Linux has for files (reserve, keep the size, punch, zero a range with and without keeping the size; a
mode that is not supported must say EOPNOTSUPP), appends, vectored writes, SEEK_DATA and SEEK_HOLE, times, two descriptors at a
time, the file unlinked while it is open. With --direct through O_DIRECT. A difference names the seed and the operation.
"""

import argparse
import ctypes
import errno
import mmap
import os
import random
import sys

MAX_LEN = 1 << 20
PAGE = 4096
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16

libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Difference(Exception):
    pass


class Exerciser:
    def __init__(self, path, seed, is_direct):
        self.random = random.Random(seed)
        self.path = path
        self.is_direct = is_direct
        self.model = bytearray()
        self.unsupported = set()
        flags = os.O_RDWR | (os.O_DIRECT if is_direct else 0)
        self.file = os.open(path, flags | os.O_CREAT | os.O_TRUNC, 0o600)
        self.other = os.open(path, os.O_RDWR)
        self.appender = os.open(path, os.O_WRONLY | os.O_APPEND)
        # O_DIRECT wants aligned memory.
        self.buffer = mmap.mmap(-1, MAX_LEN)

    def close(self):
        for file in (self.file, self.other, self.appender):
            os.close(file)

    def step(self):
        operations = [
            self.write, self.write, self.write, self.write_vectored, self.append, self.read, self.read,
            self.truncate, self.allocate, self.allocate, self.seek, self.sync, self.reopen, self.stat,
        ]
        self.random.choice(operations)()

    def range(self):
        """Mostly short, at times long, never beyond MAX_LEN."""
        offset = self.random.randrange(self.random.choice([PAGE * 2, 1 << 16, MAX_LEN]))
        length = self.random.randrange(1, self.random.choice([64, PAGE + 2, 1 << 16, 1 << 18]))
        if self.is_direct:
            offset = offset // PAGE * PAGE
            length = (length + PAGE - 1) // PAGE * PAGE
        return offset, min(length, MAX_LEN - offset)

    def data(self, length):
        return self.random.randbytes(length)

    def grow(self, length):
        self.model.extend(bytes(max(0, length - len(self.model))))

    def write(self):
        offset, length = self.range()
        data = self.data(length)
        self.buffer[:length] = data
        file = self.random.choice([self.file, self.other])
        self.expect(length, os.pwrite(file, memoryview(self.buffer)[:length], offset), "pwrite")
        self.grow(offset + length)
        self.model[offset : offset + length] = data

    def write_vectored(self):
        offset, _ = self.range()
        pieces = [self.data(self.random.randrange(1, 3000)) for _ in range(self.random.randrange(1, 8))]
        data = b"".join(pieces)
        if offset + len(data) > MAX_LEN:
            return
        self.expect(len(data), os.pwritev(self.other, pieces, offset), "pwritev")
        self.grow(offset + len(data))
        self.model[offset : offset + len(data)] = data

    def append(self):
        data = self.data(self.random.randrange(1, 6000))
        if len(self.model) + len(data) <= MAX_LEN:
            self.expect(len(data), os.write(self.appender, data), "append")
            self.model.extend(data)

    def read(self):
        offset, length = self.range()
        file = self.random.choice([self.file, self.other])
        view = memoryview(self.buffer)[:length]
        found = os.preadv(file, [view], offset)
        self.expect(bytes(self.model[offset : offset + length]), bytes(view[:found]), f"read of {length} at {offset}")

    def truncate(self):
        offset, length = self.range()
        size = self.random.choice([offset, offset + length, 0, len(self.model) // 2])
        if self.random.random() < 0.5:
            os.ftruncate(self.file, size)
        elif self.path is not None:
            os.truncate(self.path, size)
        else:
            os.ftruncate(self.other, size)
        del self.model[size:]
        self.grow(size)

    def allocate(self):
        offset, length = self.range()
        mode = self.random.choice([0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE])
        if libc.fallocate(self.other, mode, offset, length) != 0:
            self.expect(errno.EOPNOTSUPP, ctypes.get_errno(), f"errno of fallocate, mode {mode}")
            self.unsupported.add(mode)
            return
        if not mode & KEEP_SIZE:
            self.grow(offset + length)
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            end = min(offset + length, len(self.model))
            self.model[offset:end] = bytes(max(0, end - offset))

    def seek(self):
        """What is called a hole is zeros; data is found, and the end is a hole."""
        size = len(self.model)
        if size == 0:
            return
        start = self.random.randrange(size)
        hole = os.lseek(self.other, start, os.SEEK_HOLE)
        if not start <= hole <= size:
            raise Difference(f"SEEK_HOLE from {start} of {size} gives {hole}")
        try:
            data = os.lseek(self.other, start, os.SEEK_DATA)
        except OSError as error:
            self.expect(errno.ENXIO, error.errno, "errno of SEEK_DATA")
            data = size
        if any(self.model[start:data]):
            raise Difference(f"SEEK_DATA from {start} skips data up to {data}")

    def sync(self):
        self.random.choice([os.fsync, os.fdatasync])(self.random.choice([self.file, self.other]))

    def reopen(self):
        if self.path is None:
            return
        os.close(self.other)
        self.other = os.open(self.path, os.O_RDWR)

    def stat(self):
        self.expect(len(self.model), os.fstat(self.other).st_size, "st_size")
        time = self.random.randrange(-(1 << 31) * 10**9, (1 << 33) * 10**9)
        os.utime(self.other, ns=(time, time))
        self.expect(time, os.fstat(self.file).st_mtime_ns, "st_mtime_ns")

    def unlink(self):
        os.unlink(self.path)
        self.path = None

    def check_all(self):
        self.expect(len(self.model), os.fstat(self.other).st_size, "st_size at the end")
        self.expect(bytes(self.model), os.pread(self.other, MAX_LEN + 1, 0), "all of the file")

    def expect(self, expected, found, what):
        if expected == found:
            return
        if isinstance(expected, bytes):
            at = next((i for i, (a, b) in enumerate(zip(expected, found)) if a != b), min(len(expected), len(found)))
            raise Difference(f"{what}: {len(found)} of {len(expected)} bytes, the first that differs is {at}")
        raise Difference(f"{what}: expected {expected}, found {found}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--operations", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--direct", action="store_true")
    arguments = parser.parse_args()
    unsupported = set()
    for seed in range(1, arguments.seeds + 1):
        exerciser = Exerciser(arguments.file, seed, arguments.direct)
        for number in range(arguments.operations):
            try:
                exerciser.step()
                if number % 250 == 249:
                    exerciser.check_all()
                # The last part is played on a file without a name, for every third seed.
                if seed % 3 == 0 and number == arguments.operations * 3 // 4:
                    exerciser.unlink()
            except (Difference, OSError) as problem:
                sys.exit(f"seed {seed}, operation {number}: {problem}")
        exerciser.check_all()
        exerciser.close()
        unsupported |= exerciser.unsupported
    if unsupported:
        # Modes are refused in whole or not at all; docs/semantics.md says which.
        print(f"not supported: fallocate modes {sorted(unsupported)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
