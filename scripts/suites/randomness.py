"""Are the bytes of a sealed vault's data files random?

Usage: randomness.py VAULT. Every regular file but sero.json and the lock (a host, a process) is tested by itself, over the
extents that hold data (a hole of a sparse file stays a hole): over its bytes, and where there are too few of them, over its half
bytes. Then all of them together, and each of the first 128 positions (the header's) across all files, which would show one constant
byte. A file fails at a probability of one in a million for the whole run.
"""

import os
import sys
from math import erfc, sqrt

HEADER_LEN = 128
MIN_FOR_BYTES = 256 * 8
ALARM = 1e-6


def probability(counts):
    """That chance alone gives a chi-square this high (Wilson and Hilferty's approximation)."""
    expected = sum(counts) / len(counts)
    chi_square = sum((count - expected) ** 2 for count in counts) / expected
    freedom = len(counts) - 1
    z = ((chi_square / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / sqrt(2 / (9 * freedom))
    return erfc(z / sqrt(2)) / 2


def histogram(data):
    counts = [0] * 256
    for value in range(256):
        counts[value] = data.count(value)
    return counts


def half_bytes(counts):
    halves = [0] * 16
    for value, count in enumerate(counts):
        halves[value >> 4] += count
        halves[value & 15] += count
    return halves


def extents(file, size):
    """All of them, before any is read: what was reserved, and lies in the cache as zeros after it was read, would be called data."""
    os.fsync(file)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    found = []
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # ENXIO: a hole up to the end
            break
        end = os.lseek(file, start, os.SEEK_HOLE)
        found.append((start, end))
    return found


def pieces(file, size):
    for start, end in extents(file, size):
        for offset in range(start, end, 1 << 20):
            yield os.pread(file, min(end - offset, 1 << 20), offset)


def data_files(vault):
    readable = [os.path.join(vault, name) for name in ("sero.json", "private/lock")]
    for folder, _, names in os.walk(vault):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path) and os.path.isfile(path) and path not in readable:
                yield path


def main(vault):
    findings = []
    total = [0] * 256
    positions = [bytearray() for _ in range(HEADER_LEN)]
    tested = 0
    for path in data_files(vault):
        file = os.open(path, os.O_RDONLY)
        counts = [0] * 256
        for data in pieces(file, os.fstat(file).st_size):
            counts = [a + b for a, b in zip(counts, histogram(data))]
        for position, value in zip(positions, os.pread(file, HEADER_LEN, 0)):
            position.append(value)
        os.close(file)
        if not sum(counts):
            continue
        tested += 1
        bins = counts if sum(counts) >= MIN_FOR_BYTES else half_bytes(counts)
        findings.append((probability(bins), path))
        total = [a + b for a, b in zip(total, counts)]
    if not tested:
        sys.exit(f"{vault}: no data file")
    findings.append((probability(total), "all files together"))
    for position, values in enumerate(positions):
        if len(values) >= MIN_FOR_BYTES:
            findings.append((probability(histogram(values)), f"byte {position} of all files"))
    alarms = [finding for finding in findings if finding[0] < ALARM / len(findings)]
    for chance, what in sorted(alarms)[:20]:
        print(f"{what}: not random (chance {chance:.1e})")
    print(f"{tested} files, {sum(total)} bytes, least chance {min(findings)[0]:.1e} of {len(findings)} tests")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
