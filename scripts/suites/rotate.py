#!/usr/bin/env python3
"""Rotations under load, killed: rotate.py SERO FOLDER ROUNDS SEED

Writers change files of a mounted vault while its key is rotated; at a random moment the daemon is killed. The vault is mounted
again, which goes on with the rotation by itself, and every file must hold what it held when it was last synced, or something that
was written to it since. At the end the rotation comes to its end, and the old key is gone from the configuration.
"""
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

SERO, FOLDER, ROUNDS, SEED = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
PASSPHRASE = b"correct horse battery staple\n"
VAULT, MOUNT = os.path.join(FOLDER, "vault"), os.path.join(FOLDER, "mount")
WRITERS = 4
LEN = 300_000


def sero(*arguments, ok=(0,)):
    done = subprocess.run([SERO, "--quiet", *arguments], input=PASSPHRASE, stdout=subprocess.PIPE, timeout=600)
    assert done.returncode in ok, (arguments, done.returncode)
    return done.stdout


def mount():
    sero("mount", VAULT, MOUNT, "--password-file", "-")


def daemon():
    return json.loads(sero("status", "--json", MOUNT))[0]["pid"]


def content(writer, number):
    return hashlib.shake_128(b"%d %d %d" % (SEED, writer, number)).digest(LEN + 1000 * writer)


class Writer(threading.Thread):
    """Writes one file over and over, whole, and knows which writes were synced."""

    def __init__(self, writer, first):
        super().__init__()
        self.writer, self.number, self.synced = writer, first, first
        self.path = os.path.join(MOUNT, "directory %d" % writer, "file with a name " + "x" * 40 * writer)
        self.going = True

    def run(self):
        rng = random.Random(SEED * 1000 + self.number)
        try:
            while self.going:
                self.number += 1
                with open(self.path, "r+b") as file:
                    data = content(self.writer, self.number)
                    half = len(data) // 8192 * 4096
                    file.write(data[:half])
                    if rng.random() < 0.3:
                        file.flush()
                        os.fsync(file.fileno())
                    file.write(data[half:])
                    file.flush()
                    if rng.random() < 0.5:
                        os.fsync(file.fileno())
                        self.synced = self.number
        except OSError:
            pass  # The daemon was killed.

    def check(self):
        """Each 4 KiB page is of a write since the last that was synced."""
        with open(self.path, "rb") as file:
            found = file.read()
        assert len(found) == len(content(self.writer, 0)), (self.path, len(found))
        since = [content(self.writer, number) for number in range(self.synced, self.number + 1)]
        for at in range(0, len(found), 4096):
            page = found[at : at + 4096]
            assert any(page == data[at : at + 4096] for data in since), (self.path, at, self.synced, self.number)


def unmount_dead():
    subprocess.run(["umount", "-l", MOUNT], check=True)


def main():
    rng = random.Random(SEED)
    os.mkdir(MOUNT)
    sero("create", VAULT, "--kdf-memory", "8", "--kdf-passes", "1", "--kdf-lanes", "1", "--password-file", "-")
    mount()
    still = {}
    for writer in range(WRITERS):
        os.mkdir(os.path.join(MOUNT, "directory %d" % writer))
    for number in range(300):
        path = os.path.join(MOUNT, "directory %d" % (number % WRITERS), "still %d" % number)
        still[path] = hashlib.shake_128(b"still %d" % number).digest(rng.choice((10, 5000, 20000, 100000)))
        with open(path, "wb") as file:
            file.write(still[path])
        if number % 10 == 0:
            os.symlink("to %d" % number, path + " link")
    writers = [Writer(writer, 0) for writer in range(WRITERS)]
    for writer in writers:
        with open(writer.path, "wb") as file:
            file.write(content(writer.writer, 0))
    os.sync()
    versions = set()
    unfinished = 0
    for round_number in range(ROUNDS):
        # Goes on with the one before, if that was not finished; not if the daemon is at it already.
        rotation = subprocess.Popen(
            [SERO, "--quiet", "rotate", MOUNT, "--password-file", "-", "--rate", str(rng.choice((5, 20, 100)))],
            stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        rotation.stdin.write(PASSPHRASE)
        rotation.stdin.close()
        for writer in writers:
            writer.start()
        time.sleep(rng.uniform(0.05, 3))
        os.kill(daemon(), signal.SIGKILL)
        for writer in writers:
            writer.going = False
            writer.join()
        rotation.wait()
        unmount_dead()
        configuration = json.load(open(os.path.join(VAULT, "sero.json")))
        versions.add(configuration["active_key"])
        unfinished += "rotation" in configuration
        mount()
        for writer in writers:
            writer.check()
        for path, data in still.items():
            with open(path, "rb") as file:
                assert file.read() == data, path
        for number in range(0, 300, 10):
            link = os.path.join(MOUNT, "directory %d" % (number % WRITERS), "still %d link" % number)
            assert os.readlink(link) == "to %d" % number
        fresh = []
        for writer in writers:
            # What is there now is what the next round begins with.
            with open(writer.path, "wb") as file:
                file.write(content(writer.writer, writer.number))
                file.flush()
                os.fsync(file.fileno())
            fresh.append(Writer(writer.writer, writer.number))
        writers = fresh
    sero("seal", MOUNT)
    before = json.load(open(os.path.join(VAULT, "sero.json")))
    sero("rotate", VAULT, "--password-file", "-")
    after = json.load(open(os.path.join(VAULT, "sero.json")))
    assert "rotation" not in after and len(after["project_keys"]) == 1, after
    old = [key["wrapped"] for key in before["project_keys"] if key["version"] != after["active_key"]]
    for name in ("sero.json", "sero.json.bak"):
        text = open(os.path.join(VAULT, name)).read()
        assert not any(wrapped in text for wrapped in old), name
    mount()
    for path, data in still.items():
        with open(path, "rb") as file:
            assert file.read() == data, path
    sero("seal", MOUNT)
    print("%d kills, %d of them within a rotation, %d versions of the key" % (ROUNDS, unfinished, len(versions)))


main()
