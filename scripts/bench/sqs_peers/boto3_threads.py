"""Sends messages with boto3, one client for 16 threads.

python boto3_threads.py QUEUE_URL BODIES MESSAGES
"""

import itertools
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

THREADS: Final = 16
BATCH: Final = 10


def main(queue_url: str, path: str, messages: str) -> None:
    """Sends the first lines of a file, and prints what that took."""
    with Path(path).open(encoding="utf-8") as file:
        bodies = [line.rstrip("\n") for line in itertools.islice(file, int(messages))]
    url = urlsplit(queue_url)
    config = Config(max_pool_connections=THREADS)
    client = boto3.client("sqs", endpoint_url=f"{url.scheme}://{url.netloc}", config=config)
    client.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])

    def send(batches: Sequence[Sequence[str]]) -> int:
        sent = 0
        for batch in batches:
            answer = client.send_message_batch(
                QueueUrl=queue_url,
                Entries=[{"Id": str(nth), "MessageBody": body} for nth, body in enumerate(batch)],
            )
            sent += len(answer["Successful"])
        return sent

    wall, cpu = time.monotonic(), time.process_time()
    batches = [bodies[begin : begin + BATCH] for begin in range(0, len(bodies), BATCH)]
    with ThreadPoolExecutor(THREADS) as pool:
        sent = sum(pool.map(send, (batches[nth::THREADS] for nth in range(THREADS))))
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    print(json.dumps({"messages": sent, "wall": wall, "cpu": cpu}))


if __name__ == "__main__":
    main(*sys.argv[1:])
