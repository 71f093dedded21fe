"""Kills the daemon of a mount at random moments under a mixed load, mounts again, and holds what is there against what
was acknowledged. Usage: kill.py SERO DIRECTORY ROUNDS [SEED]"""

import os
import random
import signal
import subprocess
import sys
import time

from crashload import Load
from crashpeers import Sero


def main():
    program, place, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seed = int(sys.argv[4]) if len(sys.argv) > 4 else random.randrange(1 << 30)
    print(f"kill: {rounds} rounds, seed {seed}", flush=True)
    dice = random.Random(seed)
    vault, mount = f"{place}/vault", f"{place}/open"
    os.makedirs(mount, exist_ok=True)
    sero = Sero(program, place)
    sero.create(vault)
    load = Load(mount)
    violations = 0
    daemon = None
    try:
        for number in range(rounds + 1):
            with open(f"{place}/log", "a", encoding="utf-8") as log:
                command = [program, "mount", vault, mount, *sero.secret, "--foreground"]
                daemon = subprocess.Popen(command, stdout=log, stderr=log)
            until = time.monotonic() + 30
            while not os.path.ismount(mount):
                if daemon.poll() is not None or time.monotonic() > until:
                    sys.exit(f"round {number}: the vault does not mount; see {place}/log")
                time.sleep(0.02)
            wrong = load.check()
            violations += bool(wrong)
            for line in wrong[:8]:
                print(f"round {number}: {line}", flush=True)
            if number == rounds:
                break
            if number % 5 == 4:
                load.tidy()
            threads = load.run(seed + number)
            time.sleep(dice.uniform(0.05, 1.5) if dice.random() < 0.8 else dice.uniform(1.5, 8.0))
            load.cut_off.set()
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
            load.stop.set()
            subprocess.run(["umount", "-l", mount], check=False, stderr=subprocess.DEVNULL)
            for thread in threads:
                thread.join(30)
    finally:
        if daemon is not None and daemon.poll() is None:
            daemon.kill()
            daemon.wait()
        subprocess.run(["umount", "-l", mount], check=False, stderr=subprocess.DEVNULL)
    # What a crash left half-made is not damage, and is not to be called so.
    with open(f"{place}/log", encoding="utf-8") as log:
        errors = [line for line in log if "error" in line.lower() or "panicked" in line]
    for line in errors[:8]:
        print(f"the log: {line.strip()}")
    violations += bool(errors)
    print(f"kill: {rounds} rounds, {violations} with a violation")
    sys.exit(violations > 0)


main()
