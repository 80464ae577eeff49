"""The Procfile's worker process: browsers and runs, until SIGTERM or SIGINT."""

import asyncio
import signal
import sys

import process


async def main() -> None:
    """Run until told to stop; then hand the runs over and leave."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with process.running(worker=True):
        await stop.wait()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except process.START_FAILURES as failure:
        sys.exit(str(failure))
