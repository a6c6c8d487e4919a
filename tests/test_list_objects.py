"""ListObjectsV2 on the wire: requests go where botocore's do, pages are read however stores write them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError

from inventory_enqueue.aws.list_objects import BROKEN, PageRequest, TransportPages, open_bucket
from inventory_enqueue.aws.list_page import PAGE_SCHEMA, BrokenPageError, parse_page
from inventory_enqueue.aws.session import s3_endpoint
from inventory_enqueue.aws.transport import Transport
from inventory_enqueue.config import AwsSettings
from inventory_enqueue.delivery.listing import Lister
from inventory_enqueue.demo.odd_keys import ODD_KEYS
from inventory_enqueue.errors import PreflightError
from inventory_enqueue.uris import S3Url
from inventory_enqueue.watch import Watch
from tests.support.ministack import ministack
from tests.support.weed import make_bucket, weed
from tests.test_transport import SECRET, Server, ok, running

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from types_boto3_s3 import S3Client

    from inventory_enqueue.demo.roto import RotoServer

NAMESPACE: Final = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
TIME: Final = datetime(2024, 5, 17, 12, 34, 56, 789000, tzinfo=UTC)
ROW: Final = (
    "<Contents><Key>{key}</Key><LastModified>2024-05-17T12:34:56.789Z</LastModified>"
    "<ETag>&quot;0123&quot;</ETag><Size>7</Size><StorageClass>STANDARD</StorageClass></Contents>"
)


def answer(rows: str, *, head: str = "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>") -> bytes:
    document = f"<ListBucketResult {NAMESPACE}>{head}{rows}</ListBucketResult>"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{document}'.encode()


def keys_in(*texts: str, head: str = "<EncodingType>url</EncodingType>") -> list[str]:
    return parse_page(answer("".join(ROW.format(key=text) for text in texts), head=head)).keys


class TestPages:
    def test_hold_the_columns_of_an_object(self) -> None:
        page = parse_page(answer(ROW.format(key="a%2Fb+c")))
        assert page.rows.schema == PAGE_SCHEMA
        assert page.rows.to_pylist() == [
            {
                "key": "a/b c",
                "size": 7,
                "e_tag": "0123",
                "last_modified_date": TIME,
                "storage_class": "STANDARD",
            }
        ]
        assert (page.is_truncated, page.token, page.prefixes) == (False, "", [])

    @pytest.mark.parametrize(
        "row",
        [
            (
                '<Contents><Size>7</Size><StorageClass>STANDARD</StorageClass><ETag>"0123"</ETag><Key>a</Key>'
                "<LastModified>2024-05-17T12:34:56.789Z</LastModified></Contents>"
            ),
            (
                "<Contents>\n  <Key>a</Key>\n  <LastModified>2024-05-17T12:34:56.789Z</LastModified>\n"
                "  <ETag>0123</ETag>\n  <Size>7</Size>\n  <Owner><ID>me</ID><DisplayName/></Owner>\n"
                "  <StorageClass>STANDARD</StorageClass>\n"
                "</Contents>\n"
            ),
            (
                "<Contents><Key>a</Key><LastModified>2024-05-17T12:34:56.789123456Z</LastModified>"
                "<ETag>&#34;0123&#34;</ETag>"
                "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType><Size>7</Size>"
                "<StorageClass>STANDARD</StorageClass><RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>"
                "</RestoreStatus></Contents>"
            ),
        ],
        ids=["order", "whitespace-and-owner", "checksums-and-restore"],
    )
    def test_are_read_however_they_are_written(self, row: str) -> None:
        plain = parse_page(answer(ROW.format(key="a"))).rows.to_pylist()
        assert parse_page(answer(row)).rows.to_pylist() == plain
        assert parse_page(answer(ROW.format(key="b") + row)).rows.to_pylist()[1:] == plain

    @pytest.mark.parametrize("absent", ["", "<ETag/><StorageClass/>", "<ETag></ETag><StorageClass></StorageClass>"])
    def test_have_nulls_for_what_is_absent(self, absent: str) -> None:
        row = parse_page(answer(f"<Contents><Key>a</Key>{absent}</Contents>")).rows.to_pylist()[0]
        assert row == dict.fromkeys(PAGE_SCHEMA.names) | {"key": "a"}

    def test_lack_a_storage_class_in_some_rows(self) -> None:
        row = ROW.replace("<StorageClass>STANDARD</StorageClass>", "")
        page = parse_page(answer(ROW.format(key="a") + row.format(key="b")))
        assert page.rows.column("storage_class").to_pylist() == ["STANDARD", None]

    def test_4_hold_any_key_encoded(self) -> None:
        # As S3 does: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
        from urllib.parse import quote_plus  # noqa: PLC0415 - the reference of this test alone

        assert keys_in(*(quote_plus(key, safe="/-_.~*") for key in ODD_KEYS)) == list(ODD_KEYS)
        for key in ODD_KEYS:
            assert keys_in(quote_plus(key), "z") == [key, "z"]

    def test_4_decode_once(self) -> None:
        assert keys_in("a%2520b", "%2541", "%252B") == ["a%20b", "%41", "%2B"]
        assert keys_in("%e6%9D%b1%0a") == ["東\n"]

    @pytest.mark.parametrize("text", ["%", "%zz", "a%2", "%ff", "%ED%A0%80"])
    def test_4_decode_strictly(self, text: str) -> None:
        with pytest.raises(BrokenPageError):
            keys_in(text)

    def test_4_leave_keys_alone_that_are_not_encoded(self) -> None:
        texts = ["a+b%41", "&lt;&amp;amp;&gt;&quot;&apos;", "&#1;&#x1F680;", "new\nline"]
        assert keys_in(*texts, head="") == ["a+b%41", "<&amp;>\"'", "\x01🚀", "new\nline"]

    def test_hold_folders_and_a_token(self) -> None:
        head = "<IsTruncated> true </IsTruncated><NextContinuationToken>a&amp;b+/%3D=</NextContinuationToken>"
        folders = "<CommonPrefixes><Prefix>a%2Fb+/</Prefix></CommonPrefixes>" * 2
        page = parse_page(answer(folders, head=head + "<EncodingType>url</EncodingType>"))
        assert page.prefixes == ["a/b /"] * 2
        assert (page.is_truncated, page.token, page.keys) == (True, "a&b+/%3D=", [])

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"", ""),
            (answer(ROW.format(key="a"))[:-1], ""),
            (b"<html>busy</html>", ""),
            (b"<?xml?>\n<Error><Code>InternalError</Code><Message>a &amp; b</Message></Error>", "InternalError"),
            (answer("<Contents><Size>1</Size></Contents>"), ""),
            (answer("<Contents><Key></Key></Contents>"), ""),
            (answer("<Contents><Key>a</Key>"), ""),
            (answer("<Contents><Key>a</Key><Size>many</Size></Contents>"), ""),
            (answer("<Contents><Key>a</Key><LastModified>today</LastModified></Contents>"), ""),
        ],
    )
    def test_7_that_are_no_whole_pages_are_refused(self, body: bytes, code: str) -> None:
        with pytest.raises(BrokenPageError) as caught:
            parse_page(body)
        assert caught.value.code == code


class TestRequests:
    @pytest.mark.parametrize(
        ("settings", "bucket"),
        [
            (AwsSettings(region="eu-west-1"), "plain"),
            (AwsSettings(), "plain"),
            (AwsSettings(region="eu-west-1"), "dotted.name"),
            (AwsSettings(region="cn-north-1"), "plain"),
            (AwsSettings(s3_endpoint_url="http://127.0.0.1:9000"), "plain"),
            (AwsSettings(s3_endpoint_url="https://store.example/base/"), "dotted.name"),
            (AwsSettings(region="eu-west-1"), "arn:aws:s3:eu-west-1:123456789012:accesspoint/point"),
        ],
    )
    def test_12_go_where_botocore_would_send_them(self, settings: AwsSettings, bucket: str) -> None:
        client = boto3.client("s3", region_name=settings.region, endpoint_url=settings.s3_endpoint_url)
        sent: list[str] = []

        def stop(request: object, **_: object) -> None:
            sent.append(getattr(request, "url", ""))
            raise InterruptedError

        client.meta.events.register("before-send.s3", stop)
        with suppress(InterruptedError):
            client.list_objects_v2(Bucket=bucket)
        endpoint = s3_endpoint(settings, bucket)
        assert sent[0].partition("?")[0].rstrip("/") == endpoint.url
        assert endpoint.service == "s3"
        assert endpoint.region == (settings.region or "us-east-1")

    def test_8_go_to_a_directory_bucket(self) -> None:
        endpoint = s3_endpoint(AwsSettings(region="us-east-1"), "base--use1-az4--x-s3")
        assert endpoint.url == "https://base--use1-az4--x-s3.s3express-use1-az4.us-east-1.amazonaws.com"
        assert (endpoint.service, endpoint.region) == ("s3express", "us-east-1")

    def test_of_a_name_that_is_none_are_refused(self) -> None:
        with pytest.raises(PreflightError, match="can't be addressed"):
            s3_endpoint(AwsSettings(region="us-east-1"), "no such/bucket?")

    def test_12_say_who_pays_and_who_owns_the_bucket(self) -> None:
        with running(Server(lambda _: ok(answer(ROW.format(key="a"))))) as server:
            settings = AwsSettings(s3_endpoint_url=server.url, request_payer=True, expected_bucket_owner="123456789012")
            source = open_bucket(settings, "bucket", connections=1)
            request = PageRequest("p/", start_after="p/ü +")
            source.begin(request)
            ((token, reply),) = source.finished(5)
            source.close()
        assert token is request
        assert reply.page is not None
        assert reply.page.keys == ["a"]
        (received,) = server.received
        assert received.headers["x-amz-request-payer"] == "requester"
        assert received.headers["x-amz-expected-bucket-owner"] == "123456789012"
        assert urlsplit(received.target).path == "/bucket"
        query = parse_qs(urlsplit(received.target).query, strict_parsing=True)
        assert query["start-after"] == ["p/ü +"]
        assert query["encoding-type"] == ["url"]

    def test_are_unsigned_where_that_is_wanted(self) -> None:
        with running(Server(lambda _: ok(answer("")))) as server:
            settings = AwsSettings(s3_endpoint_url=server.url, no_sign_request=True)
            source = open_bucket(settings, "bucket", connections=1)
            source.begin(PageRequest())
            source.finished(5)
            source.close()
        assert "authorization" not in server.received[0].headers

    def test_that_fail_say_why(self) -> None:
        error = b"<Error><Code>SlowDown</Code><Message>Please &lt;wait&gt;</Message></Error>"
        answers = [ok(error, status="503 Slow Down"), ok(answer("")[:-5]), ok(b"", status="403 Forbidden"), b""]
        with running(Server(lambda _: answers.pop(0))) as server:
            endpoint = replace(
                s3_endpoint(AwsSettings(s3_endpoint_url=server.url), "bucket"), credentials=lambda: SECRET
            )
            source = TransportPages(Transport(endpoint, connections=1), AwsSettings(), path="")
            replies = []
            for _ in range(4):
                source.begin(PageRequest())
                ((_, reply),) = source.finished(5)
                replies.append(reply)
            source.close()
        assert [(reply.status, reply.code) for reply in replies] == [
            (503, "SlowDown"),
            (200, BROKEN),
            (403, "403"),
            (0, ""),
        ]
        assert replies[0].message == "Please <wait>"
        assert replies[3].message


BULK: Final = [f"bulk/{number}/{part}" for number in range(20) for part in range(6)]


def filled(client: S3Client, bucket: str, keys: Iterable[str]) -> set[str]:
    """Put objects under the keys, and give those that the store takes."""
    taken = set()
    for key in keys:
        with suppress(ClientError):
            client.put_object(Bucket=bucket, Key=key, Body=key.encode())
            taken.add(key)
    return taken


def listed(url: str, bucket: str, prefix: str = "", *, page_by_page: bool = False) -> list[str]:
    settings = AwsSettings(s3_endpoint_url=url, region="us-east-1")
    source = open_bucket(settings, bucket, connections=8)
    listing = Lister(source, S3Url(bucket, prefix), watch=Watch(), concurrency=8, page_by_page=page_by_page)
    return [str(key) for batch in listing.batches() for key in batch.column("key").to_pylist()]


class TestStores:
    """Odd keys and folders over the wire, in small pages; what a store itself lists by boto3 is what it has."""

    @pytest.fixture(autouse=True)
    def small_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("inventory_enqueue.aws.list_objects.MAX_KEYS", 10)

    def test_ministack(self, tmp_path: Path) -> None:
        with ministack(tmp_path) as url:
            client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
            client.create_bucket(Bucket="odd")
            taken = filled(client, "odd", [*ODD_KEYS, *BULK])
            assert sorted(listed(url, "odd")) == sorted(taken)
            assert sorted(listed(url, "odd", "bulk/1")) == sorted(key for key in BULK if key.startswith("bulk/1"))
            with pytest.raises(PreflightError, match="the bucket isn't there"):
                listed(url, "absent")

    def test_roto(self, roto: RotoServer, s3_client: S3Client, bucket: str) -> None:
        taken = filled(s3_client, bucket, [*ODD_KEYS, *BULK])
        assert sorted(listed(roto.endpoint_url, bucket)) == sorted(taken)
        assert sorted(listed(roto.endpoint_url, bucket, "bulk/1")) == sorted(
            key for key in BULK if key.startswith("bulk/1")
        )

    def test_weed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with weed(tmp_path) as url:
            client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
            make_bucket(client, "folders")
            client.create_bucket(Bucket="odd")
            filled(client, "folders", BULK)
            # To start after bulk/10 loses bulk/10/0 there; we never start after anything like it.
            first = client.list_objects_v2(Bucket="folders", StartAfter="bulk/10", MaxKeys=1)["Contents"][0]["Key"]
            assert first == "bulk/11/0"
            for _ in range(3):
                assert sorted(listed(url, "folders")) == sorted(BULK)
            # Its order is that of directories, not of keys: `a-b` comes after `a/b`. Where the first page shows it, the
            # listing goes page by page; later, an error says so, unless no page has two such keys beside each other.
            filled(client, "odd", ODD_KEYS)
            monkeypatch.setattr("inventory_enqueue.aws.list_objects.MAX_KEYS", 1000)
            pages = client.get_paginator("list_objects_v2").paginate(Bucket="odd")
            theirs = [item["Key"] for page in pages for item in page.get("Contents", [])]
            assert sorted(listed(url, "odd")) == sorted(theirs)
            assert sorted(listed(url, "odd", page_by_page=True)) == sorted(theirs)
