"""A real S3 server on loopback, and a proxy before it that breaks requests, for tests and the processes they start.

python tests/s3.py serve                                  # prints its URL
python tests/s3.py proxy http://127.0.0.1:5000 --rate 0.3 --log faults.jsonl
"""

import argparse
import asyncio
import contextlib
import io
import json
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from hypothesis.strategies import integers, none, one_of, sampled_from

SECRET = "never-to-be-seen-in-any-message"

KINDS = ("slowdown", "error", "reset", "lost", "cut", "slow")
"""What the proxy does to a request, one of them by chance.

slowdown: 503 SlowDown, without asking the server
error: 500 InternalError, without asking the server
reset: the connection is reset, without asking the server
lost: the server does as it is asked, but its answer is lost with the connection
cut: the connection is closed in the middle of the answer's body
slow: the answer's body comes in drops, for a fifth of a second
stall (only if asked for): the answer's body stops in the middle, the connection stays
denied (only if asked for): 403 AccessDenied, without asking the server
"""


def draw_part(data, whole):
    """A part of a file of `whole` bytes: its start and size, either as storage takes them."""
    start = data.draw(integers(0, whole))
    return start, data.draw(one_of(none(), integers(0, whole - start)))


def read_at_will(data, file, expected):
    """Seek and read in an open file as hypothesis likes; it has to answer as `expected` (bytes) in memory would."""
    model = io.BytesIO(expected)
    for _ in range(data.draw(integers(1, 8))):
        action = data.draw(sampled_from(["set", "current", "end", "read", "readinto", "rest"]))
        if action == "set":
            position = data.draw(integers(0, len(expected) + 10))
            assert file.seek(position) == model.seek(position)
        elif action == "current":
            step = data.draw(integers(-model.tell(), len(expected)))
            assert file.seek(step, io.SEEK_CUR) == model.seek(step, io.SEEK_CUR)
        elif action == "end":
            step = data.draw(integers(-len(expected), 0))
            assert file.seek(step, io.SEEK_END) == model.seek(step, io.SEEK_END)
        elif action == "read":
            size = data.draw(integers(0, len(expected) + 10))
            assert file.read(size) == model.read(size)
        elif action == "readinto":
            got = bytearray(data.draw(integers(0, 100)))
            wanted = bytearray(len(got))
            assert file.readinto(got) == model.readinto(wanted)
            assert got == wanted
        else:
            assert file.read() == model.read()
        assert file.tell() == model.tell()


class Server:
    """A moto server in a process of its own. Buckets are the caller's: take a new one for each test."""

    def __init__(self):
        command = [sys.executable, __file__, "serve"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.url = self.process.stdout.readline().strip()

    def fill(self, bucket, objects):
        """Make a bucket with objects ({name: text}) at once: thousands of puts would take minutes."""
        self.process.stdin.write(json.dumps([bucket, objects]) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def stop(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.terminate()
        self.process.wait()


def environment(url):
    """The variables with which a process, or its children, finds the server or the proxy at `url`, and nothing else."""
    return {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": url,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "NO_PROXY": "127.0.0.1",
    }


def make_bucket(url, name):
    """Make a bucket and return its URI."""
    with urllib.request.urlopen(urllib.request.Request(f"{url}/{name}", method="PUT")):
        return f"s3://{name}"


class Proxy:
    """A proxy in a thread of this process; children reach it too, for as long as this process lives.

    Attributes:
        url: where it listens.
        rate: the part of requests that it breaks, 0 to 1; may be changed at any time.
        kinds: how, any of those in `KINDS`.
        in_a_row: how often the same request (method, path, range) is broken before it is let through once.
        always: requests whose path contains one of these are broken each time.
        requests: how many there were.
    """

    def __init__(self, upstream, log, *, rate=0.0, kinds=KINDS, seed=0, in_a_row=3, port=0):
        self.rate = rate
        self.kinds = list(kinds)
        self.in_a_row = in_a_row
        self.always = []
        self.requests = 0
        self.log = Path(log)
        self.log.touch()
        self._upstream = urlsplit(upstream)
        self._random = random.Random(seed)
        self._broken = Counter()
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._tasks = set()
        listening = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._main(port, listening)])
        self._thread.start()
        listening.wait()

    def faults(self):
        """What was done so far: a list of {kind, method, path}."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self):
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()

    async def _main(self, port, listening):
        server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        listening.set()
        async with server:
            await self._stopped.wait()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            self._tasks.discard(asyncio.current_task())
            writer.close()

    async def _serve(self, reader, writer):
        """One request; as the server behind it, the proxy takes one per connection."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        self.requests += 1
        method, path = head.split(b" ", 2)[:2]
        headers = _headers(head)
        if headers.get("expect") == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
        body = await _read_body(reader, headers)
        kind = self._fault(method.decode(), path.decode(), headers.get("range", ""))
        if kind in ("slowdown", "error", "denied"):
            writer.write(_refusal(kind, method))
            await writer.drain()
        elif kind == "reset":
            _reset(writer)
        else:
            answer = await self._ask(head + body)
            if kind == "lost":
                _reset(writer)
            else:
                await _answer(writer, answer, kind)

    def _fault(self, method, path, byte_range):
        request = (method, path, byte_range)
        forced = any(part in path for part in self.always)
        if not forced and (self._random.random() >= self.rate or self._broken[request] >= self.in_a_row):
            self._broken[request] = 0
            return None
        self._broken[request] += 1
        kind = self._random.choice(self.kinds)
        with self.log.open("a") as log:
            log.write(json.dumps({"kind": kind, "method": method, "path": path}) + "\n")
        return kind

    async def _ask(self, request):
        reader, writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        try:
            writer.write(request)
            await writer.drain()
            return await reader.read()  # it closes the connection after each answer
        finally:
            writer.close()


async def _read_body(reader, headers):
    if "chunked" in headers.get("transfer-encoding", ""):
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += await reader.readuntil(b"\r\n")
        return body
    return await reader.readexactly(int(headers.get("content-length", 0)))


async def _answer(writer, answer, kind):
    head, _, body = answer.partition(b"\r\n\r\n")
    writer.write(head + b"\r\n\r\n")
    half = len(body) // 2
    if kind == "cut":
        writer.write(body[:half])
        await writer.drain()
        if not half:
            _reset(writer)
        return
    if kind == "slow":
        for drop in range(10):
            writer.write(body[half * drop // 10 : half * (drop + 1) // 10])
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.write(body[half:])
    elif kind == "stall":
        writer.write(body[:half])
        await writer.drain()
        await asyncio.sleep(3600)
    else:
        writer.write(body)
    await writer.drain()


def _headers(head):
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _refusal(kind, method):
    status, code, text = {
        "slowdown": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
        "error": ("500 Internal Server Error", "InternalError", "We encountered an internal error. Please try again."),
        "denied": ("403 Forbidden", "AccessDenied", "Access Denied"),
    }[kind]
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{text}</Message>'
        "<RequestId>0000000000000000</RequestId></Error>"
    ).encode()
    head = ("HTTP/1.1 " + status, "Content-Type: application/xml", f"Content-Length: {len(body)}", "Connection: close")
    return "\r\n".join((*head, "", "")).encode() + (b"" if method == b"HEAD" else body)


def _reset(writer):
    """Close a connection so that the other side gets an RST."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _serve():
    """Run the server until standard input ends, filling buckets as it says."""
    from moto.backends import get_backend
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    for line in sys.stdin:
        bucket, objects = json.loads(line)
        store = get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"]
        store.create_bucket(bucket, "us-east-1")
        for name, text in objects.items():
            store.put_object(bucket, name, text.encode())
        print("done", flush=True)
    server.stop()


def _main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve")
    proxy = commands.add_parser("proxy")
    proxy.add_argument("upstream")
    proxy.add_argument("--port", type=int, default=0)
    proxy.add_argument("--rate", type=float, default=0.1)
    proxy.add_argument("--seed", type=int, default=0)
    proxy.add_argument("--in-a-row", type=int, default=3)
    proxy.add_argument("--kinds", nargs="+", default=list(KINDS))
    proxy.add_argument("--log", default="faults.jsonl")
    args = parser.parse_args()
    if args.command == "serve":
        _serve()
        return
    running = Proxy(
        args.upstream,
        args.log,
        rate=args.rate,
        kinds=args.kinds,
        seed=args.seed,
        in_a_row=args.in_a_row,
        port=args.port,
    )
    print(running.url, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
    running.stop()


if __name__ == "__main__":
    _main()
