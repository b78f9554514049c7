"""Two hosts on one machine, joined by a link of any speed: what a command does when its ranks are far apart.

    sudo python examples/two_hosts.py --rate 1gbit -- modelpar bench cd1 --sizes 256x4096x4096 \
        --model-shards 2 --layout dual --statistics 3
    python examples/two_hosts.py --near -- modelpar bench cd1 ...       the same command through shared memory

The hosts are two network namespaces with a pair of virtual Ethernet devices between them, each shaped by a token bucket
(tc tbf).  One rank of the command is started on each by MPICH's mpiexec, whose "ssh" enters the other namespace.  Needs
Linux, root, iproute2 and MPICH; nothing is left behind.  Delays cannot be shaped without netem, which many kernels
lack, so latency is that of the machine: about 30 us.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NAMES = ("modelpar-host-a", "modelpar-host-b")
DEVICES = ("modelpar-a", "modelpar-b")
ADDRESSES = ("10.213.0.1", "10.213.0.2")
SETTLING = 2.0  # seconds until a link that was brought up carries packets

# What stands for ssh: enter the namespace that has the address, and run the command there.
REMOTE = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
case "$1" in
  %s) namespace=%s ;;
  *) namespace=%s ;;
esac
shift
exec ip netns exec "$namespace" sh -c "$*"
""" % (ADDRESSES[0], NAMES[0], NAMES[1])  # noqa: UP031 - braces are the shell's here


def run(*command: str) -> None:
    """Run a command of the set-up.  Raises SystemExit with what it said where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed: {done.stderr.strip()}; it needs root and iproute2")


@contextmanager
def hosts(rate: str) -> Iterator[Path]:
    """Two namespaces with a shaped link, and the script that enters them."""
    remove()
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "enter"
        script.write_text(REMOTE)
        script.chmod(0o755)
        try:
            for name in NAMES:
                run("ip", "netns", "add", name)
            run("ip", "link", "add", DEVICES[0], "type", "veth", "peer", "name", DEVICES[1])
            for name, device, address in zip(NAMES, DEVICES, ADDRESSES, strict=True):
                run("ip", "link", "set", device, "netns", name)
                inside = ("ip", "netns", "exec", name)
                run(*inside, "ip", "addr", "add", f"{address}/24", "dev", device)
                run(*inside, "ip", "link", "set", device, "up")
                run(*inside, "ip", "link", "set", "lo", "up")
                run(*inside, "tc", "qdisc", "add", "dev", device, "root", "tbf",
                    "rate", rate, "burst", "256kb", "latency", "50ms")  # fmt: skip
            time.sleep(SETTLING)
            yield script
        finally:
            remove()


def remove() -> None:
    """Take away the namespaces of this or an earlier run; the devices go with them."""
    for name in NAMES:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def launch(arguments: Sequence[str], *inside: str, **environment: str) -> int:
    """Run mpiexec (behind the command ``inside``) and return its exit status."""
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if mpiexec is None:
        sys.exit("no mpiexec was found; install one: pip install 'modelpar[mpich]'")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run([*inside, mpiexec, *arguments], env={**os.environ, "PATH": path, **environment}).returncode


def main() -> int:
    """Read the command line, and run the command on two hosts, or on one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", default="1gbit", help="of the link, as tc writes it [1gbit]")
    parser.add_argument("--near", action="store_true", help="both ranks on this host, through shared memory")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND, of which one rank runs on each host")
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("there is no command to run; give one behind --")
    if options.near:
        return launch(["-n", "2", *command])
    if os.geteuid() != 0:
        parser.error("network namespaces need root; --near runs the command on one host")
    with hosts(options.rate) as script:
        # without UCX_TLS, MPICH finds that both "hosts" share their memory
        return launch(
            ["-localhost", ADDRESSES[0], "-launcher", "ssh", "-launcher-exec", str(script),
             "-hosts", ",".join(ADDRESSES), "-n", "2", *command],
            "ip", "netns", "exec", NAMES[0],
            UCX_TLS="tcp,self",
        )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
