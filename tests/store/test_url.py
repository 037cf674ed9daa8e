"""Store URLs: what is understood, its one spelling, and what is refused in one line without repeating a secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubefs.errors import UsageError
from cubefs.store import open_store
from cubefs.store.base import NAME_MAX_BYTES
from cubefs.store.url import PREFIX_MAX_BYTES, ObjectUrl, parse_endpoint, parse_object_url

OPTIONS = {"endpoint_url": "https://s3.example.com", "region": "eu-central-1"}


def parse(url: str) -> ObjectUrl:
    return parse_object_url(url, options=OPTIONS)


@pytest.mark.parametrize(
    ("url", "place", "prefix", "spelling"),
    [
        ("s3://bucket", "bucket", "", "s3://bucket"),
        ("s3://bucket/", "bucket", "", "s3://bucket"),
        ("s3://my.bucket-1_x/a", "my.bucket-1_x", "a", "s3://my.bucket-1_x/a"),
        ("s3://bucket/a/b-c/d.e/", "bucket", "a/b-c/d.e", "s3://bucket/a/b-c/d.e"),
        ("s3://bucket//a", "bucket", "a", "s3://bucket/a"),
        ("swift://c", "c", "", "swift://c"),
        ("swift://_Container/x", "_Container", "x", "swift://_Container/x"),
    ],
)
def test_place_and_prefix(url: str, place: str, prefix: str, spelling: str) -> None:
    parsed = parse(url)
    assert (parsed.place, parsed.prefix, parsed.options) == (place, prefix, {})
    assert str(parsed) == spelling
    assert parse(spelling) == parsed


def test_names_and_keys() -> None:
    for url, key in [("s3://bucket/p/q", "p/q/meta/1"), ("s3://bucket", "meta/1")]:
        parsed = parse(url)
        assert (parsed.key("meta/1"), parsed.name(key)) == (key, "meta/1")
    assert parse("s3://bucket/p").key("") == "p/"  # what everything of ours begins with
    assert parse("s3://bucket").key("") == ""


def test_options() -> None:
    parsed = parse("s3://bucket/p?region=eu-1&endpoint_url=http%3A%2F%2F127.0.0.1:80/%3F&")
    assert parsed.options == {"region": "eu-1", "endpoint_url": "http://127.0.0.1:80/?"}
    assert str(parsed) == "s3://bucket/p?endpoint_url=http://127.0.0.1:80/%3F&region=eu-1"
    assert parse(str(parsed)) == parsed
    assert parse("s3://bucket/p?").options == {}


@given(
    st.dictionaries(st.sampled_from(sorted(OPTIONS)), st.text(st.characters(exclude_categories=["C"]), min_size=1))
)
def test_every_value_survives_its_spelling(options: dict[str, str]) -> None:
    url = ObjectUrl("s3", "bucket", "a", options)
    assert parse(str(url)) == url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://", "no bucket in .*; write it as s3://bucket/prefix"),
        ("s3:///prefix", "no bucket"),
        ("swift://?region=x", "no container in .*; write it as swift://container/prefix"),
        ("s3://bu cket/x", "'bu cket' in .* cannot be the name of a bucket"),
        ("s3://ab/x", "cannot be the name of a bucket"),
        ("s3://-bucket/x", "cannot be the name of a bucket"),
        ("s3://bücket/x", "cannot be the name of a bucket"),
        ("s3://host:9000/bucket", "cannot be the name of a bucket"),
        ("s3://bucket\n/x", "cannot be the name of a bucket"),
        ("s3://" + "b" * 256, "cannot be the name of a bucket"),
        ("swift://a:b/x", "cannot be the name of a container"),
        ("s3://bucket/a b", "unusable prefix 'a b'"),
        ("s3://bucket/../x", "unusable prefix"),
        ("s3://bucket/a//b", "unusable prefix.* no two slashes"),
        ("s3://bucket/.hidden", "unusable prefix.* begin with a dot"),
        ("s3://bucket/a%20b", "unusable prefix"),
        ("s3://bucket/" + "/".join(["abcdefg"] * 65), f"longer than {PREFIX_MAX_BYTES} characters"),
        ("s3://bucket/x?regoin=eu", "unknown option 'regoin' .* may stand endpoint_url, region"),
        ("s3://bucket/x?region", "the option region .* needs a value, as in region=eu-central-1"),
        ("s3://bucket/x?region=", "needs a value"),
        ("s3://bucket/x?region=a%0Ab", "needs a value"),
        ("s3://bucket/x?region=%ff", "needs a value"),
        ("s3://bucket/x?region=a&region=b", "the option region .* stands twice"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse(url)
    assert "\n" not in str(caught.value)


SECRET = "wJalrXUtnFEMI"


@pytest.mark.parametrize(
    "url",
    [
        f"s3://AKIA:{SECRET}@bucket/prefix",
        f"s3://AKIA:{SECRET}/K7MDENG@bucket/prefix",
        f"swift://user:{SECRET}@container",
        f"s3://bucket/prefix?access_key=AKIA&secret_key={SECRET}",
        f"s3://bucket/prefix?region=&secret_key={SECRET}",
        f"s3://bucket/prefix?region=a&region={SECRET}",
        f"s3://bucket/a b?secret_key={SECRET}",
        f"s3://?{SECRET}=x",
    ],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    for call in (parse, open_store):
        with pytest.raises(UsageError) as caught:
            call(url)
        assert SECRET not in str(caught.value)


def test_a_prefix_leaves_room_for_every_name() -> None:
    parsed = parse("s3://bucket/" + "/".join(["abcdefg"] * 64))
    assert len(parsed.prefix) == PREFIX_MAX_BYTES
    assert len(parsed.key("n" * NAME_MAX_BYTES)) <= 1024


@pytest.mark.parametrize(
    ("value", "spelling"),
    [
        ("https://s3.example.com", "https://s3.example.com"),
        ("HTTPS://S3.Example.COM:443/", "https://s3.example.com"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://localhost:80", "http://localhost"),
        ("http://[::1]:9000/", "http://[::1]:9000"),
        ("https://example.com/gate/s3/", "https://example.com/gate/s3"),
    ],
)
def test_endpoints(value: str, spelling: str) -> None:
    assert parse_endpoint(value, option="endpoint_url") == spelling


NO_ENDPOINTS = ["", "s3.example.com", "ftp://x", "https://", "//x", "https://x?y=1", "https://x#y", "https://a b"]
NO_ENDPOINTS += ["https://x:port", "https://x:99999", "http://[::1"]


@pytest.mark.parametrize("value", NO_ENDPOINTS)
def test_what_is_no_endpoint(value: str) -> None:
    with pytest.raises(UsageError, match=r"the endpoint_url .* is no address of a server") as caught:
        parse_endpoint(value, option="endpoint_url")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [f"https://user:{SECRET}@host", f"https://{SECRET}@host:9", f"http://u:{SECRET}@h:p"]
)
def test_an_endpoint_holds_no_secrets(value: str) -> None:
    with pytest.raises(UsageError, match="must not contain credentials") as caught:
        parse_endpoint(value, option="endpoint_url")
    assert SECRET not in str(caught.value)


# -- open_store: the kinds of stores there are ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("bucket/prefix", "not a store URL.* s3://bucket/prefix or swift://container/prefix"),
        ("s3:/bucket", "not a store URL"),
        ("S3://bucket", "unknown kind of store 'S3'.*local://, s3://, swift://"),
        ("https://bucket.s3.amazonaws.com", "unknown kind of store 'https'"),
        ("s3://", "no bucket"),
        ("s3://bucket?x=1", "behind the `[?]` may stand endpoint_url, region, profile, addressing_style"),
        ("swift://", "no container"),
        ("swift://container?endpoint_url=http://x", "unknown option 'endpoint_url'"),
    ],
)
def test_what_opens_no_store(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)
