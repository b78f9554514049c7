"""Several hosts on one machine, joined by links of any speed: what a command does when its ranks are far apart.

    sudo python examples/hosts.py --hosts 2 --rate 1gbit -- modelpar bench cd1 --sizes 256x4096x4096 \
        --model-shards 2 --layout dual --statistics 3
    sudo python examples/hosts.py --hosts 2 --ranks 2 --rate 1gbit --traffic -- modelpar train ...
    python examples/hosts.py --near --hosts 2 -- modelpar bench cd1 ...     the same command through shared memory

The hosts are network namespaces, each with a virtual Ethernet device on one bridge, as on a switch; a token bucket (tc
tbf) shapes what each sends.  --burst says how much passes at full speed after a pause: as little as the timers of the
kernel keep up with, so that short messages are slowed too, as on a wire.  --ranks ranks of the command are started on
each by MPICH's mpiexec, whose "ssh" enters the namespace.  --traffic prints a last line of JSON with the bytes that
each host has sent.  --latency delays what each host sends by netem, which many kernels lack: without it latency is that
of the machine, about 30 us.  One run at a time has hosts; others wait for it.  Needs Linux, root, iproute2 and MPICH;
nothing is left behind.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SWITCH, BRIDGE = "modelpar-switch", "modelpar-br"
MOST_HOSTS = 64
SETTLING = 2.0  # seconds until a link that was brought up carries packets
PAUSE = 2.5e-4  # seconds of a link whose bytes pass at full speed after a pause
LEAST_BURST = 20_000  # bytes, some packets
UNITS = {"bit": 1 / 8, "bps": 1.0}  # of rates as tc writes them, in bytes a second
FACTORS = {"": 1e0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
LOCK = Path(tempfile.gettempdir()) / "modelpar-hosts.lock"

# What stands for ssh: enter the namespace that has the address, and run the command there.
REMOTE = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
namespace=modelpar-host-${1##*.}
shift
exec ip netns exec "$namespace" sh -c "$*"
"""


@dataclass(frozen=True)
class Hosts:
    """Namespaces that are up.   script: stands for ssh; names and addresses: of the hosts"""

    script: Path
    names: tuple[str, ...]
    addresses: tuple[str, ...]

    def sent(self) -> dict[str, int]:
        """Bytes that each host has sent over its link so far, by its address."""
        sent = {}
        for name, address in zip(self.names, self.addresses, strict=True):
            file = f"/sys/class/net/{_device(address)}/statistics/tx_bytes"
            sent[address] = int(run("ip", "netns", "exec", name, "cat", file))
        return sent


def _device(address: str) -> str:
    return f"modelpar-{address.rpartition('.')[2]}"


def run(*command: str) -> str:
    """Run a command of the set-up; return what it prints.  Raises SystemExit with what it said where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed: {done.stderr.strip()}; it needs root and iproute2")
    return done.stdout


def burst_of(rate: str) -> str:
    """What passes in PAUSE at a rate as tc writes it, ``1gbit``; it says itself what is wrong with others."""
    written = re.fullmatch(r"([0-9]+\.?[0-9]*)([kmgt]?i?)(bit|bps)?", rate.lower())
    if written is None or written[2] not in FACTORS:
        return f"{LEAST_BURST}b"
    a_second = float(written[1]) * FACTORS[written[2]] * UNITS[written[3] or "bit"]
    return f"{max(LEAST_BURST, round(PAUSE * a_second))}b"


@contextmanager
def hosts(n: int, rate: str, latency: str | None = None, burst: str | None = None) -> Iterator[Hosts]:
    """``n`` namespaces on one bridge, what each sends shaped to ``rate`` and delayed by ``latency``.

    burst   as tc has it; by default what the rate lets through in PAUSE.  Waits for another run that has hosts.
    """
    burst = burst or burst_of(rate)
    addresses = tuple(f"10.213.0.{i + 1}" for i in range(n))
    names = tuple(f"modelpar-host-{i + 1}" for i in range(n))
    with open(LOCK, "w") as lock, tempfile.TemporaryDirectory() as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the names are the same in every run
        remove()
        script = Path(folder) / "enter"
        script.write_text(REMOTE)
        script.chmod(0o755)
        try:
            switch = ("ip", "netns", "exec", SWITCH)
            run("ip", "netns", "add", SWITCH)
            run(*switch, "ip", "link", "add", BRIDGE, "type", "bridge")
            run(*switch, "ip", "link", "set", BRIDGE, "up")
            for name, address in zip(names, addresses, strict=True):
                inside, device = ("ip", "netns", "exec", name), _device(address)
                port = f"{device}-port"[:15]
                run("ip", "netns", "add", name)
                run(*inside, "ip", "link", "add", device, "type", "veth", "peer", "name", port)
                run(*inside, "ip", "link", "set", port, "netns", SWITCH)
                run(*switch, "ip", "link", "set", port, "master", BRIDGE)
                run(*switch, "ip", "link", "set", port, "up")
                run(*inside, "ip", "addr", "add", f"{address}/24", "dev", device)
                run(*inside, "ip", "link", "set", device, "up")
                run(*inside, "ip", "link", "set", "lo", "up")
                run(*inside, "tc", "qdisc", "add", "dev", device, "root", "handle", "1:", "tbf",
                    "rate", rate, "burst", burst, "latency", "50ms")  # fmt: skip
                if latency:
                    run(*inside, "tc", "qdisc", "add", "dev", device, "parent", "1:1", "netem", "delay", latency)
            time.sleep(SETTLING)
            yield Hosts(script, names, addresses)
        finally:
            remove()


def remove() -> None:
    """Take away the namespaces of this or an earlier run; the devices go with them."""
    there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for name in (line.split()[0] for line in there.splitlines() if line.strip()):
        if name == SWITCH or name.startswith("modelpar-host-"):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def mpiexec() -> str:
    """Where it is.  Raises SystemExit where it is not."""
    found = shutil.which("mpiexec", path=_path())
    if found is None:
        sys.exit("no mpiexec was found; install one: pip install 'modelpar[mpich]'")
    return found


def launch(command: Sequence[str], **environment: str) -> int:
    """Run a command and return its exit status."""
    return subprocess.run(command, env={**os.environ, "PATH": _path(), **environment}).returncode


def command_on(there: Hosts, ranks: int, command: Sequence[str]) -> list[str]:
    """What starts ``ranks`` ranks of the command on each host, host after host.  Raises SystemExit without mpiexec."""
    return [
        "ip", "netns", "exec", there.names[0], mpiexec(),
        "-localhost", there.addresses[0], "-launcher", "ssh", "-launcher-exec", str(there.script),
        "-hosts", ",".join(f"{address}:{ranks}" for address in there.addresses),
        "-n", str(ranks * len(there.addresses)), *command,
    ]  # fmt: skip


def main() -> int:
    """Read the command line, and run the command on several hosts, or on one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=2, metavar="N", help="how many [2]")
    parser.add_argument("--ranks", type=int, default=1, metavar="K", help="of the command on each host [1]")
    parser.add_argument("--rate", default="1gbit", help="of each host's link, as tc writes it [1gbit]")
    parser.add_argument("--latency", help="of each host's link, as tc writes it, such as 100us; needs netem")
    parser.add_argument("--burst", help="that passes at full speed after a pause [what --rate has in 0.25 ms]")
    parser.add_argument("--traffic", action="store_true", help="print the bytes that each host has sent, as JSON")
    parser.add_argument("--near", action="store_true", help="all ranks on this host, through shared memory")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND")
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("there is no command to run; give one behind --")
    if not 1 <= options.hosts <= MOST_HOSTS or options.ranks < 1:
        parser.error(f"--hosts is 1 to {MOST_HOSTS}, and --ranks at least 1")
    if options.near:
        return launch([mpiexec(), "-n", str(options.hosts * options.ranks), *command])
    if os.geteuid() != 0:
        parser.error("network namespaces need root; --near runs the command on one host")
    with hosts(options.hosts, options.rate, options.latency, options.burst) as there:
        before = there.sent()
        # without UCX_TLS, MPICH finds that all "hosts" share their memory
        status = launch(command_on(there, options.ranks, command), UCX_TLS="tcp,self")
        if options.traffic:
            print(json.dumps({"bytes_sent": {host: n - before[host] for host, n in there.sent().items()}}), flush=True)
        return status


if __name__ == "__main__":
    sys.exit(main())
