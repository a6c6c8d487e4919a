"""Sends messages with aiobotocore on uvloop, 32 batches in flight.

python aiobotocore_tasks.py QUEUE_URL BODIES MESSAGES
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import uvloop  # type: ignore[import-not-found, unused-ignore]  # they live in an environment of their own
from aiobotocore.config import AioConfig  # type: ignore[import-not-found, unused-ignore]
from aiobotocore.session import get_session  # type: ignore[import-not-found, unused-ignore]

IN_FLIGHT: Final = 32
BATCH: Final = 10


async def main(queue_url: str, path: str, messages: str) -> None:
    """Sends the first lines of a file, and prints what that took."""
    bodies = _lines(path, int(messages))
    url = urlsplit(queue_url)
    async with get_session().create_client(
        "sqs",
        endpoint_url=f"{url.scheme}://{url.netloc}",
        config=AioConfig(max_pool_connections=IN_FLIGHT),
    ) as client:
        await client.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])
        wall, cpu = time.monotonic(), time.process_time()
        batches = (bodies[begin : begin + BATCH] for begin in range(0, len(bodies), BATCH))
        sent = sum(await asyncio.gather(*(_send(client, queue_url, batches) for _ in range(IN_FLIGHT))))
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    print(json.dumps({"messages": sent, "wall": wall, "cpu": cpu}))


def _lines(path: str, count: int) -> list[str]:
    with Path(path).open(encoding="utf-8") as file:
        return [line.rstrip("\n") for line in itertools.islice(file, count)]


async def _send(client: Any, queue_url: str, batches: Iterator[list[str]]) -> int:  # noqa: ANN401 - it has no type here
    """Sends batches, one after the other, until none are left."""
    sent = 0
    for batch in batches:
        entries = [{"Id": str(nth), "MessageBody": body} for nth, body in enumerate(batch)]
        answer = await client.send_message_batch(QueueUrl=queue_url, Entries=entries)
        sent += len(answer["Successful"])
    return sent


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
