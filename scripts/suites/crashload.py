"""A mixed load on a mount that remembers what was acknowledged, and the check of what a crash has left of it."""

import copy
import os
import random
import struct
import threading

PAGE = 4096
PAGES = 300


def page_of(index, version):
    """Tells index and version, and fills the whole page, so that a torn one shows."""
    return struct.pack("<II", index, version) * (PAGE // 8)


class Load:
    """What is written, and what of it was acknowledged by fsync."""

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

    def acknowledged(self):
        """What must be there of what is stored from now on."""
        with self.lock:
            kept = copy.copy(self)
            kept.synced_pages, kept.made, kept.folders = dict(self.synced_pages), set(self.made), set(self.folders)
        return kept

    def run(self, seed):
        workers = [self.pages, self.log, self.files, self.replace, self.directories]
        threads = [threading.Thread(target=self.guarded, args=(w, random.Random(seed + i))) for i, w in enumerate(workers)]
        for thread in threads:
            thread.start()
        return threads

    def guarded(self, worker, dice):
        try:
            worker(dice)
        except OSError:
            pass  # the daemon was killed

    def pages(self, dice):
        fd = os.open(f"{self.mount}/pages", os.O_RDWR | os.O_CREAT, 0o644)
        version = max(self.written_pages.values(), default=0)
        while not self.stop.is_set():
            batch = {}
            for _ in range(dice.randint(1, 12)):
                version += 1
                index = dice.randrange(PAGES)
                self.written_pages[index] = version
                os.pwrite(fd, page_of(index, version), index * PAGE)
                batch[index] = version
            if dice.random() < 0.7:
                os.fsync(fd)
                # Everything that this thread wrote before is synced too.
                with self.lock:
                    self.synced_pages = dict(self.written_pages)

    def log(self, dice):
        fd = os.open(f"{self.mount}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        number = self.log_written
        while not self.stop.is_set():
            for _ in range(dice.randint(1, 20)):
                number += 1
                self.log_written = number
                os.write(fd, b"line %09d of the log\n" % number)
            os.fsync(fd)
            self.log_synced = number

    def files(self, dice):
        while not self.stop.is_set():
            number = dice.randrange(1 << 30)
            size = dice.choice([0, 10, 5000, 16256, 16257, 70000, 600000])
            path = f"{self.mount}/file-{number}-{size}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.write(fd, bytes([number & 255]) * size)
            if dice.random() < 0.5:
                os.fsync(fd)
                with self.lock:
                    self.made.add((number, size))
            os.close(fd)

    def replace(self, dice):
        version = self.replaced
        while not self.stop.is_set():
            version += 1
            self.replacing = version
            temporary = f"{self.mount}/replaced.new"
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.write(fd, struct.pack("<I", version) * dice.choice([100, 2000, 9000]))
            os.fsync(fd)
            os.close(fd)
            os.rename(temporary, f"{self.mount}/replaced")
            folder = os.open(self.mount, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
            self.replaced = version

    def directories(self, dice):
        while not self.stop.is_set():
            name = "folder-%d" % dice.randrange(1 << 30)
            os.mkdir(f"{self.mount}/{name}")
            inner = f"{self.mount}/{name}/" + "n" * dice.choice([5, 200])
            fd = os.open(inner, os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(fd, b"inside")
            if dice.random() < 0.3:
                os.fsync(fd)
                with self.lock:
                    self.folders.add(inner[len(self.mount) + 1:])
            os.close(fd)

    def check(self):
        """What is wrong after the crash; takes what is there as the new truth."""
        wrong = []
        content = self.read("pages", wrong) if self.written_pages else b""
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
        if self.log_written:
            lines = self.read("log", wrong).split(b"\n")
            whole = [line for line in lines if len(line) == 25]
            if len(whole) < self.log_synced or any(line != b"line %09d of the log" % (n + 1) for n, line in enumerate(whole)):
                wrong.append(f"log: {len(whole)} lines, {self.log_synced} were synced")
            self.log_written = self.log_synced = len(whole)
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
        for path in self.folders:
            if self.read(path, wrong) != b"inside":
                wrong.append(f"{path}: not what was synced")
        for folder, _, names in os.walk(self.mount, onerror=lambda error: wrong.append(str(error))):
            for name in names:
                self.read(os.path.relpath(os.path.join(folder, name), self.mount), wrong)
        return wrong

    def read(self, name, wrong):
        try:
            with open(f"{self.mount}/{name}", "rb") as file:
                return file.read()
        except OSError as error:
            wrong.append(f"{name[:60]}: {error.strerror}")
            return b""
