"""What the crash scripts try: sero, or another filesystem, to see that they find what they should."""

import os
import subprocess


def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def quietly(*command):
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Sero:
    def __init__(self, program, place):
        self.program = program
        secret = f"{place}/secret"
        with open(os.open(secret, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as file:
            file.write("only for this test\n")
        self.secret = ["--password-file", secret]

    def create(self, vault):
        run(self.program, "create", vault, "--kdf-memory", "8", "--kdf-passes", "1", "--kdf-lanes", "1", *self.secret)

    def mount(self, vault, mountpoint):
        """What is said about a failure; None if it is mounted."""
        mounted = subprocess.run([self.program, "mount", vault, mountpoint, *self.secret], capture_output=True, text=True, check=False)
        return mounted.stderr.strip() if mounted.returncode else None

    def seal(self, mountpoint):
        run("timeout", "120", self.program, "seal", mountpoint)


class Gocryptfs:
    def __init__(self, program, place):
        self.program = program
        self.secret = f"{place}/secret"
        with open(os.open(self.secret, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as file:
            file.write("only for this test\n")

    def create(self, vault):
        os.mkdir(vault)
        run(self.program, "-init", "-q", "-scryptn", "10", "-passfile", self.secret, vault)
        run("sync", "-f", vault)

    def mount(self, vault, mountpoint):
        mounted = subprocess.run([self.program, "-q", "-passfile", self.secret, vault, mountpoint], capture_output=True, text=True, check=False)
        return mounted.stderr.strip() or "it says nothing" if mounted.returncode else None

    def seal(self, mountpoint):
        run("umount", mountpoint)


class Nothing:
    """The filesystem under it, by itself: what no vault can be better than."""

    def __init__(self, program, place):
        pass

    def create(self, vault):
        os.mkdir(vault)

    def mount(self, vault, mountpoint):
        run("mount", "--bind", vault, mountpoint)

    def seal(self, mountpoint):
        run("umount", mountpoint)


def peer(program, place):
    """By the program's name."""
    kinds = {"gocryptfs": Gocryptfs, "none": Nothing}
    return kinds.get(os.path.basename(program), Sero)(program, place)
