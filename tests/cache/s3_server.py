"""A server that speaks S3 on this machine: moto, or with S3=ceph a real one, which `make s3` uses.

Ceph's gateway is what many clusters offer as their object storage. It needs `apt-get install radosgw ceph-mon ceph-osd
ceph-common` and root; monitor, one OSD in memory and gateway run in the foreground, with all files in one folder and
ports of their own.
"""

import logging
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from moto.server import ThreadedMotoServer

from tests.reliability.slurm_machine import daemon, free_ports

REAL = os.environ.get("S3") == "ceph"
PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool")
USER, SECRET = "made", "made-secret"

CONFIG = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon}
mon initial members = a
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 10000
mon data avail crit = 1
mon data avail warn = 1
public addr = 127.0.0.1
public network = 127.0.0.0/8
run dir = {folder}
admin socket = {folder}/$name.$pid.asok
pid file =
log file = {folder}/$name.log
mon data = {folder}/mon
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
osd crush update on start = false
osd class update on start = false
osd class load list = *
osd class default list = *
rgw frontends = beast endpoint=127.0.0.1:{gateway}
"""


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server with the user `USER`, which runs until the end of the block."""
    if REAL:
        with _ceph() as address:
            yield address
        return
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@contextmanager
def _ceph() -> Iterator[str]:
    lacking = [name for name in PROGRAMS if not shutil.which(name)]
    assert not lacking, f"S3=ceph needs {', '.join(lacking)}: apt-get install radosgw ceph-mon ceph-osd ceph-common"
    mon, gateway = free_ports(2)
    # Names of sockets are short.
    with tempfile.TemporaryDirectory(prefix="ceph", ignore_cleanup_errors=True) as name, ExitStack() as running:
        folder, fsid = Path(name), str(uuid.uuid4())
        for part in ("mon", "osd"):
            (folder / part).mkdir()
        config = folder / "ceph.conf"
        config.write_text(CONFIG.format(fsid=fsid, mon=mon, gateway=gateway, folder=folder), encoding="utf-8")
        environment = {**os.environ, "CEPH_CONF": str(config)}

        def ask(*words: str) -> None:
            subprocess.run(words, env=environment, check=True, capture_output=True, timeout=180)

        def start(*words: str) -> None:
            running.enter_context(daemon(words, folder / f"{words[0]}.out", environment))

        ask("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"v1:127.0.0.1:{mon}", str(folder / "monmap"))
        ask("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(folder / "monmap"))
        start("ceph-mon", "-i", "a", "-f")
        number = str(uuid.uuid4())
        ask("ceph", "osd", "new", number)
        # Said here: an OSD that says it itself before it knows the monitor well waits for an answer for ever.
        ask("ceph", "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=one")
        ask("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", number)
        start("ceph-osd", "-i", "0", "-f")
        ask(
            *("radosgw-admin", "user", "create", f"--uid={USER}", "--display-name=made"),
            *(f"--access-key={USER}", f"--secret-key={SECRET}"),
        )
        start("radosgw", "-n", "client.rgw.a", "-f")
        address = f"http://127.0.0.1:{gateway}"
        _await(address)
        yield address


def _await(address: str) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
        else:
            return
    raise TimeoutError(f"nobody answers at {address}")
