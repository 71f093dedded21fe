"""A mixed load on a mount that remembers what was acknowledged, and the check of what a crash has left of it."""

import copy
import glob
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import threading

PAGE = 4096
PAGES = 300
# Of what is made and not needed any more, so much stays.
KEPT = 60

GIT = ["git", "-c", "user.name=load", "-c", "user.email=load@localhost", "-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "core.fsync=all"]


def page_of(index, version):
    """Tells index and version, and fills the whole page, so that a torn one shows."""
    return struct.pack("<II", index, version) * (PAGE // 8)


def sync(path):
    """A file, or the names in a folder."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class Load:
    """What is written, and what of it was acknowledged."""

    def __init__(self, mount):
        self.mount = mount
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.synced_pages = {}
        self.written_pages = {}
        self.log_synced = 0
        self.log_written = 0
        self.made = set()
        self.replaced = 0
        self.replacing = 0
        self.folders = set()
        self.rows = 0
        self.rows_begun = 0
        self.commits = 0
        self.commits_begun = 0
        # The daemon was killed: from now on everything fails.
        self.cut_off = threading.Event()
        # What a worker stopped at otherwise.
        self.stopped = []

    def acknowledged(self):
        """What must be there of what is stored from now on."""
        with self.lock:
            kept = copy.copy(self)
            kept.stopped = []
            kept.synced_pages, kept.made, kept.folders = dict(self.synced_pages), set(self.made), set(self.folders)
            return kept

    def begun(self, later):
        """What may be there: `later` has gone on until now."""
        self.written_pages, self.log_written, self.replacing = dict(later.written_pages), later.log_written, later.replacing
        self.rows_begun, self.commits_begun = later.rows_begun, later.commits_begun
        # Both are taken away when they are old.
        with later.lock:
            self.made &= later.made
            self.folders &= later.folders

    def run(self, seed):
        self.stop.clear()
        self.cut_off.clear()
        workers = [self.pages, self.log, self.files, self.replace, self.directories, self.database, self.repository]
        threads = [threading.Thread(target=self.guarded, args=(w, random.Random(seed + i))) for i, w in enumerate(workers)]
        for thread in threads:
            thread.start()
        return threads

    def guarded(self, worker, dice):
        try:
            worker(dice)
        except (sqlite3.Error, subprocess.CalledProcessError, OSError) as error:
            if not self.cut_off.is_set():
                self.stopped.append(f"{worker.__name__}: {error} {getattr(error, 'output', '')}")

    def pages(self, dice):
        fd = os.open(f"{self.mount}/pages", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            version = max(self.written_pages.values(), default=0)
            while not self.stop.is_set():
                for _ in range(dice.randint(1, 12)):
                    version += 1
                    index = dice.randrange(PAGES)
                    self.written_pages[index] = version
                    os.pwrite(fd, page_of(index, version), index * PAGE)
                if dice.random() < 0.7:
                    os.fsync(fd)
                    # Everything that this thread wrote before is synced too.
                    with self.lock:
                        self.synced_pages = dict(self.written_pages)
        finally:
            os.close(fd)

    def log(self, dice):
        fd = os.open(f"{self.mount}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            number = self.log_written
            while not self.stop.is_set():
                for _ in range(dice.randint(1, 20)):
                    number += 1
                    self.log_written = number
                    os.write(fd, b"line %09d of the log\n" % number)
                os.fsync(fd)
                self.log_synced = number
        finally:
            os.close(fd)

    def files(self, dice):
        ours = []
        while not self.stop.wait(dice.choice([0, 0.002, 0.02])):
            number = dice.randrange(1 << 30)
            size = dice.choice([0, 10, 5000, 16256, 16257, 70000, 600000])
            path = f"{self.mount}/file-{number}-{size}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                os.write(fd, bytes([number & 255]) * size)
                if dice.random() < 0.5:
                    os.fsync(fd)
                    with self.lock:
                        self.made.add((number, size))
            finally:
                os.close(fd)
            ours.append((number, size, path))
            if len(ours) > KEPT:
                number, size, path = ours.pop(dice.randrange(len(ours)))
                with self.lock:
                    self.made.discard((number, size))
                os.unlink(path)

    def replace(self, dice):
        version = self.replaced
        while not self.stop.is_set():
            version += 1
            self.replacing = version
            temporary = f"{self.mount}/replaced.new"
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                os.write(fd, struct.pack("<I", version) * dice.choice([100, 2000, 9000]))
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(temporary, f"{self.mount}/replaced")
            sync(self.mount)
            self.replaced = version

    def directories(self, dice):
        ours = []
        while not self.stop.wait(dice.choice([0, 0.002, 0.02])):
            name = "folder-%d" % dice.randrange(1 << 30)
            os.mkdir(f"{self.mount}/{name}")
            inner = f"{name}/" + "n" * dice.choice([5, 200])
            fd = os.open(f"{self.mount}/{inner}", os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.write(fd, b"inside")
                if dice.random() < 0.3:
                    os.fsync(fd)
                    with self.lock:
                        self.folders.add(inner)
            finally:
                os.close(fd)
            ours.append((name, inner))
            if len(ours) > KEPT:
                name, inner = ours.pop(dice.randrange(len(ours)))
                with self.lock:
                    self.folders.discard(inner)
                os.unlink(f"{self.mount}/{inner}")
                os.rmdir(f"{self.mount}/{name}")

    def database(self, dice):
        base = sqlite3.connect(f"{self.mount}/base.sqlite", isolation_level=None, timeout=20)
        try:
            base.execute("PRAGMA journal_mode=%s" % dice.choice(["DELETE", "WAL", "TRUNCATE"]))
            # The only setting under which a commit that was acknowledged survives a power cut in every mode.
            base.execute("PRAGMA synchronous=EXTRA")
            base.execute("CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, text TEXT)")
            while not self.stop.is_set():
                count = dice.randint(1, 8)
                first = self.rows + 1
                self.rows_begun = self.rows + count
                base.execute("BEGIN IMMEDIATE")
                base.executemany("INSERT INTO rows VALUES (?, ?)", [(n, "row %d " % n * dice.randint(1, 60)) for n in range(first, first + count)])
                base.execute("COMMIT")
                self.rows += count
        finally:
            base.close()

    def git(self, *arguments):
        return subprocess.run([*GIT, "-C", f"{self.mount}/repository", *arguments], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout

    def repository(self, dice):
        place = f"{self.mount}/repository"
        if not os.path.isdir(f"{place}/.git"):
            os.makedirs(place, exist_ok=True)
            self.git("init", "--quiet", "--initial-branch=main")
            # Git syncs nothing of what it makes here, HEAD and the configuration included: any disk may lose that.
            for folder, _, names in os.walk(place):
                for name in names:
                    sync(os.path.join(folder, name))
                sync(folder)
            sync(self.mount)
        while not self.stop.is_set():
            number = self.commits + 1
            self.commits_begun = number
            for _ in range(dice.randint(1, 3)):
                with open(f"{place}/text-{dice.randrange(20)}", "w", encoding="ascii") as file:
                    file.write("commit %d\n" % number * dice.randint(1, 2000))
            self.git("add", "--all")
            self.git("commit", "--quiet", "--allow-empty", "--message", f"commit {number}")
            # Git syncs files, and trusts the filesystem for the names that it gives them.
            sync(f"{place}/.git/refs/heads")
            self.commits = number

    def check(self):
        """What is wrong after the crash; takes what is there as the new truth."""
        wrong = [f"a worker stopped: {said}" for said in self.stopped]
        self.stopped.clear()
        content = self.read("pages", wrong) if self.synced_pages or os.path.exists(f"{self.mount}/pages") else b""
        for index, synced in self.synced_pages.items():
            page = content[index * PAGE:(index + 1) * PAGE]
            found = struct.unpack("<II", page[:8])[1] if len(page) == PAGE else None
            if found is None or page != page_of(index, found) or not synced <= found <= self.written_pages[index]:
                wrong.append(f"page {index}: version {found}, synced {synced}, written {self.written_pages[index]}")
            else:
                self.synced_pages[index] = self.written_pages[index] = found
        for index in range(len(content) // PAGE):
            page = content[index * PAGE:(index + 1) * PAGE]
            if page != bytes(PAGE) and page != page_of(index, struct.unpack("<II", page[:8])[1]):
                wrong.append(f"page {index} is torn")
        if self.log_synced or os.path.exists(f"{self.mount}/log"):
            lines = self.read("log", wrong).split(b"\n")
            whole = [line for line in lines if len(line) == 25]
            if len(whole) < self.log_synced or any(line != b"line %09d of the log" % (n + 1) for n, line in enumerate(whole)):
                wrong.append(f"log: {len(whole)} lines, {self.log_synced} were synced")
            self.log_written = self.log_synced = len(whole)
            if os.path.exists(f"{self.mount}/log"):
                os.truncate(f"{self.mount}/log", 26 * len(whole))
        for number, size in self.made:
            name = f"file-{number}-{size}"
            if self.read(name, wrong) != bytes([number & 255]) * size:
                wrong.append(f"{name}: not what was synced")
        if self.replaced:
            data = self.read("replaced", wrong)
            version = struct.unpack("<I", data[:4])[0] if len(data) >= 4 else None
            if version is None or not self.replaced <= version <= self.replacing or data != data[:4] * (len(data) // 4):
                wrong.append(f"replaced: version {version}, synced {self.replaced}")
            else:
                self.replaced = self.replacing = version
        for path in self.folders:
            if self.read(path, wrong) != b"inside":
                wrong.append(f"{path}: not what was synced")
        for folder, _, names in os.walk(self.mount, onerror=lambda error: wrong.append(str(error))):
            for name in names:
                self.read(os.path.relpath(os.path.join(folder, name), self.mount), wrong)
        self.check_database(wrong)
        self.check_repository(wrong)
        return wrong

    def tidy(self):
        """Takes away what would only make later checks slower."""
        self.made, self.folders = set(), set()
        for path in glob.glob(f"{self.mount}/file-*"):
            os.unlink(path)
        for path in glob.glob(f"{self.mount}/folder-*"):
            shutil.rmtree(path)

    def check_database(self, wrong):
        if not self.rows and not os.path.exists(f"{self.mount}/base.sqlite"):
            return
        try:
            base = sqlite3.connect(f"{self.mount}/base.sqlite", timeout=20)
            try:
                verdict = base.execute("PRAGMA integrity_check").fetchone()[0]
                has_rows = base.execute("SELECT count(*) FROM sqlite_master WHERE name = 'rows'").fetchone()[0]
                count, last = base.execute("SELECT count(*), ifnull(max(number), 0) FROM rows").fetchone() if has_rows else (0, 0)
            finally:
                base.close()
        except sqlite3.Error as error:
            wrong.append(f"SQLite: {error}")
            return
        if verdict != "ok" or count != last or not self.rows <= last <= max(self.rows_begun, self.rows):
            wrong.append(f"SQLite: {verdict}; {count} rows up to {last}, {self.rows} were committed, {self.rows_begun} begun")
        else:
            self.rows = self.rows_begun = last

    def check_repository(self, wrong):
        place = f"{self.mount}/repository"
        if not self.commits and not os.path.isdir(f"{place}/.git/refs/heads"):
            # Cut off while it was made.
            shutil.rmtree(place, ignore_errors=True)
            return
        for lock in glob.glob(f"{place}/.git/**/*.lock", recursive=True):
            os.unlink(lock)
        try:
            if not self.commits and subprocess.run([*GIT, "-C", place, "rev-parse", "--verify", "HEAD"], capture_output=True, check=False).returncode:
                shutil.rmtree(place, ignore_errors=True)
                return
            self.git("fsck", "--full", "--strict")
            count = int(self.git("rev-list", "--count", "HEAD"))
        except subprocess.CalledProcessError as error:
            wrong.append(f"git: {error.output.decode(errors='replace')[:300]}")
            return
        if not self.commits <= count <= max(self.commits_begun, self.commits):
            wrong.append(f"git: {count} commits, {self.commits} were acknowledged")
        else:
            self.commits = self.commits_begun = count
            # What a cut left in the index or the working tree is not what is looked at.
            if subprocess.run([*GIT, "-C", place, "reset", "--quiet", "--hard"], capture_output=True, check=False).returncode:
                os.unlink(f"{place}/.git/index")
                self.git("reset", "--quiet", "--hard")

    def read(self, name, wrong):
        try:
            with open(f"{self.mount}/{name}", "rb") as file:
                return file.read()
        except OSError as error:
            wrong.append(f"{name[:60]}: {error.strerror}")
            return b""
