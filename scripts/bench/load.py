"""The loads of scripts/bench.sh: each group runs on an empty mount and prints one line for each of its rows: NAME VALUE.

Usage: load.py GROUP MOUNTPOINT CORPUS DAEMON_PID...    (CORPUS: a directory with tree.tar, tree.md5 and the tree itself)
       load.py rows                                      (the table of rows)

"Cold": everything is written, then the kernel's caches are dropped. Data is random, in buffers that are used again.
"""

import json
import multiprocessing
import os
import random
import sqlite3
import subprocess
import sys
import time

MIB = 1 << 20
PAGE = 4096

# name: (group, what, unit, whether more is better)
ROWS = {
    "write": ("stream", "write 1 GiB, 128 KiB at a time, fsync", "MB/s", True),
    "read": ("stream", "read it, cold", "MB/s", True),
    "overwrite": ("stream", "overwrite it in place, fsync", "MB/s", True),
    "write4": ("parallel", "write, 4 streams", "MB/s", True),
    "read4": ("parallel", "read, 4 streams, cold", "MB/s", True),
    "randread": ("random", "random read 4 KiB, cold", "IOPS", True),
    "randread4": ("random", "random read 4 KiB, 4 jobs, cold", "IOPS", True),
    "randwrite": ("random", "random write 4 KiB, one fsync", "IOPS", True),
    "randsync": ("random", "random write 4 KiB, fsync each", "IOPS", True),
    "append": ("random", "append 4 KiB, fsync each", "IOPS", True),
    "untar": ("tree", "untar the tree", "s", False),
    "ls": ("tree", "ls -lR, cold", "s", False),
    "md5": ("tree", "md5sum -c, cold", "s", False),
    "find": ("tree", "find, hot", "s", False),
    "stat": ("tree", "stat of every file, hot", "s", False),
    "cp": ("tree", "cp -a of the tree, cold", "s", False),
    "memory": ("tree", "memory of the daemon after these", "MiB", False),
    "rm": ("tree", "rm -rf of both trees", "s", False),
    "create": ("small", "create 20,000 files of 1 KiB", "ops/s", True),
    "lstat": ("small", "stat them, cold", "ops/s", True),
    "delete": ("small", "delete them", "ops/s", True),
    "sqlite": ("sqlite", "SQLite, an insert a transaction", "tx/s", True),
    "git": ("git", "git init, add, commit, status", "s", False),
    "cargo": ("cargo", "cargo build of a crate with clap", "s", False),
    "pgbench": ("postgres", "PostgreSQL, pgbench, 4 clients", "tx/s", True),
    "mount": ("mount", "mount of a vault with the tree in it", "s", False),
}


def report(name, value):
    print(name, f"{value:.6g}", flush=True)


def drop_caches():
    subprocess.run(["sync"], check=True)
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def timed(command, **options):
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)
    return time.monotonic() - started


# --- streams ---


def write_stream(path, len_bytes, flags, seed):
    buffers = [random.Random(seed + number).randbytes(128 << 10) for number in range(16)]
    started = time.monotonic()
    file = os.open(path, os.O_WRONLY | flags, 0o600)
    for number in range(len_bytes // len(buffers[0])):
        os.write(file, buffers[number % 16])
    os.fsync(file)
    os.close(file)
    return time.monotonic() - started


def read_stream(path):
    buffer = bytearray(128 << 10)
    started = time.monotonic()
    file = os.open(path, os.O_RDONLY)
    while os.readv(file, [buffer]):
        pass
    os.close(file)
    return time.monotonic() - started


def stream(mountpoint, *_):
    path, len_bytes = f"{mountpoint}/stream", 1024 * MIB
    report("write", len_bytes / 1e6 / write_stream(path, len_bytes, os.O_CREAT, 1))
    drop_caches()
    report("read", len_bytes / 1e6 / read_stream(path))
    report("overwrite", len_bytes / 1e6 / write_stream(path, len_bytes, 0, 2))


def parallel(mountpoint, *_):
    len_bytes = 256 * MIB
    paths = [f"{mountpoint}/stream{number}" for number in range(4)]

    def together(function, arguments):
        processes = [multiprocessing.Process(target=function, args=argument) for argument in arguments]
        started = time.monotonic()
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            if process.exitcode:
                sys.exit("a stream failed")
        return time.monotonic() - started

    seconds = together(write_stream, [(path, len_bytes, os.O_CREAT, seed) for seed, path in enumerate(paths)])
    report("write4", 4 * len_bytes / 1e6 / seconds)
    drop_caches()
    report("read4", 4 * len_bytes / 1e6 / together(read_stream, [(path,) for path in paths]))


# --- random access, by fio ---


def fio(path, *options):
    """Operations a second, of all jobs together, the last fsync included."""
    command = ["fio", "--name=x", f"--filename={path}", "--ioengine=psync", "--bs=4k", "--thread", "--group_reporting",
               "--output-format=json", "--fallocate=none", *options]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    job = result["jobs"][0]
    operations = job["read"]["total_ios"] + job["write"]["total_ios"]
    return operations / (max(job["read"]["runtime"], job["write"]["runtime"], 1) / 1000)


def random_access(mountpoint, *_):
    path = f"{mountpoint}/random"
    write_stream(path, 1024 * MIB, os.O_CREAT, 3)
    reading = ["--rw=randread", "--size=1g", "--randrepeat=0"]
    drop_caches()
    report("randread", fio(path, *reading, "--io_size=256m"))
    drop_caches()
    report("randread4", fio(path, *reading, "--numjobs=4", "--io_size=128m"))
    writing = ["--rw=randwrite", "--size=1g", "--overwrite=1", "--randrepeat=0"]
    # Into the kernel's cache it would be a question of memory: the time counts until it is synced.
    started = time.monotonic()
    fio(path, *writing, "--io_size=256m", "--end_fsync=1")
    report("randwrite", 256 * MIB / PAGE / (time.monotonic() - started))
    report("randsync", fio(path, *writing, "--fsync=1", "--time_based", "--runtime=4"))
    os.unlink(path)
    report("append", fio(f"{mountpoint}/append", "--rw=write", "--size=1g", "--fsync=1", "--time_based", "--runtime=4",
                         "--create_on_open=1"))


# --- trees and small files ---


def memory_mib(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/status") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
    return total / 1024


def tree(mountpoint, corpus, *pids):
    place = f"{mountpoint}/tree"
    os.mkdir(place)
    report("untar", timed(["tar", "-C", place, "-xf", f"{corpus}/tree.tar"]))
    drop_caches()
    report("ls", timed(["ls", "-lR", place]))
    drop_caches()
    report("md5", timed(["md5sum", "--quiet", "-c", f"{corpus}/tree.md5"], cwd=place))
    timed(["find", place])
    report("find", timed(["find", place]))
    timed(["find", place, "-size", "+1G"])
    report("stat", timed(["find", place, "-size", "+1G"]))
    drop_caches()
    report("cp", timed(["cp", "-a", place, f"{mountpoint}/copy"]))
    if pids:
        report("memory", memory_mib(pids))
    report("rm", timed(["rm", "-rf", place, f"{mountpoint}/copy"]))


def small(mountpoint, *_):
    count, data = 20000, random.randbytes(1024)
    names = [f"{mountpoint}/{number % 20}/file {number}" for number in range(count)]
    for number in range(20):
        os.mkdir(f"{mountpoint}/{number}")
    started = time.monotonic()
    for name in names:
        file = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.write(file, data)
        os.close(file)
    report("create", count / (time.monotonic() - started))
    drop_caches()
    started = time.monotonic()
    for name in names:
        os.lstat(name)
    report("lstat", count / (time.monotonic() - started))
    started = time.monotonic()
    for name in names:
        os.unlink(name)
    report("delete", count / (time.monotonic() - started))


# --- programs ---


def sqlite(mountpoint, *_):
    database = sqlite3.connect(f"{mountpoint}/data.db", isolation_level=None)
    database.execute("create table t(id integer primary key, text text)")
    count, started = 0, time.monotonic()
    while time.monotonic() - started < 4:
        database.execute("insert into t(text) values(?)", ("x" * 200,))
        count += 1
    report("sqlite", count / (time.monotonic() - started))
    database.close()


def git(mountpoint, corpus, *_):
    place = f"{mountpoint}/repository"
    os.mkdir(place)
    for part in ("fs", "kernel", "mm"):
        subprocess.run(["cp", "-a", f"{corpus}/tree/{part}", place], check=True)
    environment = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "HOME": place}
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "gc.auto=0"]
    report("git", sum(
        timed(["git", *identity, *command], cwd=place, env=environment)
        for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"], ["status"])
    ))


def cargo(mountpoint, corpus, *_):
    place = f"{mountpoint}/crate"
    subprocess.run(["cp", "-a", f"{corpus}/crate", place], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
    report("cargo", timed(["cargo", "build", "--offline", "--quiet"], cwd=place, env=environment))


def postgres(mountpoint, *_):
    programs = sorted(os.scandir("/usr/lib/postgresql"), key=lambda entry: int(entry.name))[-1].path + "/bin"
    place = f"{mountpoint}/postgres"
    # The top of a new vault is its owner's alone.
    os.chmod(mountpoint, 0o755)
    os.mkdir(place, 0o700)
    subprocess.run(["chown", "postgres:postgres", place], check=True)

    def run(*command):
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--", *command]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout

    run(f"{programs}/initdb", "-D", place, "--no-sync")
    start = f"-c listen_addresses= -c unix_socket_directories={place} -c shared_buffers=32MB"
    run(f"{programs}/pg_ctl", "-w", "-D", place, "-l", f"{place}/log", "-o", start, "start")
    try:
        run(f"{programs}/createdb", "-h", place, "bench")
        run(f"{programs}/pgbench", "-h", place, "-i", "-s", "5", "-q", "bench")
        output = run(f"{programs}/pgbench", "-h", place, "-c", "4", "-T", "8", "bench")
        report("pgbench", float(output.split("tps = ")[1].split()[0]))
    finally:
        run(f"{programs}/pg_ctl", "-w", "-D", place, "-m", "fast", "stop")


def fill(mountpoint, corpus, *_):
    """For the row `mount`, which the script measures itself."""
    subprocess.run(["cp", "-a", f"{corpus}/tree", mountpoint], check=True)


GROUPS = {
    "stream": stream, "parallel": parallel, "random": random_access, "tree": tree, "small": small, "sqlite": sqlite, "git": git,
    "cargo": cargo, "postgres": postgres, "mount": fill,
}

if __name__ == "__main__":
    if sys.argv[1:] == ["rows"]:
        for name, (group, what, unit, is_more_better) in ROWS.items():
            print(name, group, f"{what} ({unit})", sep="\t")
    else:
        GROUPS[sys.argv[1]](*sys.argv[2:])
