"""Cuts the power under a mixed load: the backing lies in a filesystem image, and a cut is an atomic copy of that image, by
reflink, while everything goes on. Each copy is mounted afresh and held against what had been acknowledged.
Usage: powercut.py PROGRAM DIRECTORY FILESYSTEM CUTS [SEED]
DIRECTORY on an xfs with reflinks; FILESYSTEM ext4 or xfs; PROGRAM sero, or gocryptfs, or "none" for FILESYSTEM itself."""

import os
import random
import subprocess
import sys
import time

from crashload import Load
from crashpeers import peer, quietly, run

# A new disk after so many: full ones and long lists only make it slow.
CUTS_PER_DISK = 20


def unmount(folder):
    """A daemon that was told to go may still hold its disk."""
    for _ in range(300):
        if not os.path.ismount(folder) or subprocess.run(["umount", folder], stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return
        time.sleep(0.1)
    quietly("umount", "-l", folder)


def main():
    program, place, filesystem, cuts = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    seed = int(sys.argv[5]) if len(sys.argv) > 5 else random.randrange(1 << 30)
    print(f"power cuts on {filesystem}: {cuts}, seed {seed}", flush=True)
    dice = random.Random(seed)
    image, disk, mount = f"{place}/image", f"{place}/disk", f"{place}/open"
    disk_after, mount_after = f"{place}/disk.cut", f"{place}/open.cut"
    for folder in (disk, mount, disk_after, mount_after):
        os.makedirs(folder, exist_ok=True)
    subject = peer(program, place)
    violations = done = 0
    try:
        for number in range(cuts):
            if number % CUTS_PER_DISK == 0:
                if number:
                    subject.seal(mount)
                    unmount(disk)
                with open(image, "wb") as file:
                    file.truncate(3 << 30)
                run(f"mkfs.{filesystem}", *(["-q", "-F"] if filesystem == "ext4" else ["-q", "-f"]), image)
                run("mount", "-t", filesystem, "-o", "loop", image, disk)
                subject.create(f"{disk}/vault")
                if said := subject.mount(f"{disk}/vault", mount):
                    sys.exit(f"it does not mount: {said}")
                load = Load(mount)
            threads = load.run(seed + number)
            # Most cuts come within a background sync's time, some after checkpoints.
            time.sleep(dice.uniform(0.1, 2.5) if dice.random() < 0.8 else dice.uniform(2.5, 9.0))
            left = load.acknowledged()
            # A file of its own each time: somebody else's mount namespace may keep the last one mounted.
            copy = f"{place}/image.cut-{number}"
            run("cp", "--reflink=always", image, copy)
            left.begun(load)
            load.stop.set()
            for thread in threads:
                thread.join(60)
            # The copy has the identity of the disk that is still mounted.
            run("mount", "-t", filesystem, "-o", "loop,nouuid" if filesystem == "xfs" else "loop", copy, disk_after)
            said = subject.mount(f"{disk_after}/vault", mount_after)
            if said is not None:
                wrong = [f"does not mount: {said}"]
            else:
                left.mount = mount_after
                wrong = left.check()
                subject.seal(mount_after)
            wrong += [f"a worker stopped: {said}" for said in load.stopped]
            load.stopped.clear()
            violations += bool(wrong)
            done += 1
            for line in wrong[:8]:
                print(f"cut {number}: {line}", flush=True)
            if len(wrong) > 8:
                print(f"cut {number}: and {len(wrong) - 8} more", flush=True)
            unmount(disk_after)
            os.unlink(copy)
    finally:
        # Sealed, not only detached: the daemon holds its disk until it is done.
        for folder in (mount_after, mount):
            if os.path.ismount(folder):
                try:
                    subject.seal(folder)
                except subprocess.CalledProcessError:
                    quietly("umount", "-l", folder)
        for folder in (disk_after, disk):
            unmount(folder)
    print(f"power cuts on {filesystem}: {done}, {violations} with a violation")
    sys.exit(violations > 0)


main()
