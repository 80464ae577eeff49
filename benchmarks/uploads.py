"""What an upload costs: time, and how much of it is ever in memory, on disk and in a bucket."""

import argparse
import asyncio
import os
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.measure import describe_machine
from infra.storage import S3Access, Storage, open_store

MIB = 2**20


async def _stream(mib: int) -> AsyncIterator[bytes]:
    chunk = os.urandom(64 * 1024)
    for _ in range(mib * 16):
        yield chunk


def _peak() -> float:
    """The most memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def _measure(storage: Storage, name: str, mib: int, at_once: int) -> None:
    await storage.put("bench/warm", _stream(16), limit=16 * MIB)
    before, began = _peak(), time.perf_counter()
    puts = (storage.put(f"bench/{n}", _stream(mib), limit=mib * MIB) for n in range(at_once))
    await asyncio.gather(*puts)
    taken = time.perf_counter() - began
    grown = (_peak() - before) / at_once
    print(
        f"  {name:<5} {at_once} x {mib:>4} MiB  in  {at_once * mib / taken:6.0f} MiB/s, {grown:5.1f} MiB each",
        end="",
    )
    before, began = _peak(), time.perf_counter()
    size = 0
    async for chunk in await storage.read("bench/0"):
        size += len(chunk)
    rate = size / MIB / (time.perf_counter() - began)
    print(f"   out {rate:6.0f} MiB/s, {_peak() - before:5.1f} MiB more")
    await storage.delete_prefix("bench")


async def main() -> None:
    """Peaks only rise, so each size has a process of its own: `--one` names it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="", help="s3://bucket/prefix; default is a temporary directory")
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--one", nargs=2, type=int)
    given = parser.parse_args()
    if given.one:
        with tempfile.TemporaryDirectory() as directory:
            storage = await open_store(given.url, Path(directory), S3Access(given.endpoint, "us-east-1"))
            await _measure(storage, given.url[:2] or "disk", *given.one)
        return
    print(f"Uploads: {describe_machine()}")
    for mib, at_once in ((10, 1), (100, 1), (1000, 1), (100, 4)):
        command = [sys.executable, "-m", "benchmarks.uploads", *sys.argv[1:], "--one", str(mib), str(at_once)]
        process = await asyncio.create_subprocess_exec(*command)
        await process.wait()


if __name__ == "__main__":
    asyncio.run(main())
