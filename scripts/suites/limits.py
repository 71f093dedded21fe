"""Very many files: that they work, and what an operation costs among them.

Usage: limits.py files FOLDER COUNT            make COUNT files in directories of 1,000, and read some of them
       limits.py there FOLDER COUNT            find them all
       limits.py open FOLDER COUNT             COUNT files open at once, each with its own content
       limits.py costs FOLDER [PID]            operations a second in directories of different sizes, and the time that process PID
                                               (the daemon) spends on each
       limits.py mounts SERO VAULT MOUNTPOINT  how long a mount takes, with the passphrase at standard input
"""

import os
import random
import resource
import subprocess
import sys
import time

SIZES = [1_000, 10_000, 100_000]
SAMPLE = 1_000


def path_of(folder, number):
    return f"{folder}/{number // 1000}/{number}"


def files(folder, count):
    for number in range(count):
        if number % 1000 == 0:
            os.makedirs(f"{folder}/{number // 1000}")
        with open(path_of(folder, number), "x") as file:
            file.write(str(number))
    check(folder, range(0, count, 37))


def check(folder, numbers):
    for number in numbers:
        with open(path_of(folder, number)) as file:
            text = file.read()
        assert text == str(number), (number, text)


def there(folder, count):
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            assert place == f"{folder}/{int(name) // 1000}", (place, name)
            found += 1
    assert found == count, found
    check(folder, random.Random(count).sample(range(count), min(count, 20_000)))


def open_at_once(folder, count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= count + 100, f"a process may have {hard} files open here"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.mkdir(folder)
    held = []
    for number in range(count):
        file = os.open(f"{folder}/{number}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        held.append(file)
        os.write(file, b"%d" % number)
        if number % 3 == 0:
            os.unlink(f"{folder}/{number}")
    for number, file in enumerate(held):
        text = os.pread(file, 100, 0)
        assert text == b"%d" % number, (number, text)
        os.close(file)
    assert len(os.listdir(folder)) == count - len(range(0, count, 3))


def spent(pid):
    """Microseconds of processor time."""
    if pid is None:
        return 0
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(file.read().split()[0])
    return total / 1000


def costs(folder, pid):
    os.mkdir(folder)
    mountpoint = folder
    while not os.path.ismount(mountpoint):
        mountpoint = os.path.dirname(mountpoint)
    print("| entries | create | look up, cold | unlink | list, cold |")
    print("|---|---|---|---|---|")
    directory, made = f"{folder}/of every size", 0
    os.mkdir(directory)
    for size in SIZES:
        for made in range(made, size):
            os.close(os.open(f"{directory}/entry {made}", os.O_CREAT | os.O_WRONLY, 0o600))
        made = size
        row = []

        def timed(work, count):
            started, before = time.monotonic(), spent(pid)
            work()
            took, used = time.monotonic() - started, spent(pid) - before
            row.append(f"{count / took:,.0f}/s" + (f", {used / count:.1f} µs" if pid else ""))

        def forget():
            os.sync()
            subprocess.run(["mount", "-i", "-o", "remount", mountpoint], check=True)
            time.sleep(2)

        new = [f"{directory}/new {number}" for number in range(SAMPLE)]
        old = [f"{directory}/entry {number}" for number in random.Random(1).sample(range(size), SAMPLE)]
        timed(lambda: [os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600)) for name in new], SAMPLE)
        forget()
        timed(lambda: [os.stat(name) for name in old], SAMPLE)
        timed(lambda: [os.unlink(name) for name in new], SAMPLE)
        forget()
        timed(lambda: os.listdir(directory), size)
        print(f"| {size:,} | {' | '.join(row)} |", flush=True)


def mounts(sero, vault, mountpoint):
    passphrase = sys.stdin.buffer.read()
    took = []
    for _ in range(5):
        started = time.monotonic()
        command = [sero, "--quiet", "mount", vault, mountpoint, "-o", "allow_other", "--password-file", "-"]
        subprocess.run(command, input=passphrase, check=True)
        took.append(time.monotonic() - started)
        if len(took) < 5:
            subprocess.run([sero, "--quiet", "seal", mountpoint], check=True)
    print(f"a mount takes {min(took) * 1000:.0f} to {max(took) * 1000:.0f} ms")


def main():
    what, *arguments = sys.argv[1:]
    if what == "costs":
        costs(arguments[0], int(arguments[1]) if len(arguments) > 1 else None)
    elif what == "mounts":
        mounts(*arguments)
    else:
        {"files": files, "there": there, "open": open_at_once}[what](arguments[0], int(arguments[1]))


if __name__ == "__main__":
    main()
