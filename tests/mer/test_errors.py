"""Messages show what is wrong, and no secret."""

from __future__ import annotations

import pickle

import pytest

from mer.data.places import find_corpus
from mer.errors import UserError, refuse_secrets, without_secrets
from mer.storage import open_store

SECRET = "wJalrXUt/nFEMI+K7MDENG"


@pytest.mark.parametrize(
    "address",
    [
        f"s3://bucket/results?access_key=AKIA&secret_key={SECRET}",
        f"s3://AKIA:{SECRET}@bucket/results",
        f"s3://AKIA:a@{SECRET}@bucket/results",
        f"s3://AKIA:?{SECRET}@bucket/results",
        f"https://{SECRET.replace('/', '')}@bucket/results",
        f"S3://bucket/results?SECRET_KEY={SECRET}",
        f"s3://bucket/results?region=eu;session_token={SECRET}",
        f"s3://bucket/results?%73ecret_key={SECRET}",
        f"s3://bucket/results?endpoint_override=https://me:{SECRET}@minio:9000&region=eu",
        f"s3://bucket/results?endpoint_override=https%3A%2F%2Fme%3A{SECRET.replace('/', '%2F')}%40minio",
        "s3://AKIA@bucket/results",
        f"gs://anonymous:{SECRET}@bucket/results",
        f"s3:/bucket/results?secret_key={SECRET}",  # as `pathlib` writes it
        f"abfs://account/container?sig={SECRET}",
        f"AKIA:{SECRET}@host:/data/results",  # as `scp` takes it
        f"AKIA:{SECRET}@host.example:results",
        f"AKIA:a@{SECRET}@10.0.0.1:~/results",
        f"AKIA:{SECRET}@bucket/results",  # its scheme forgotten
    ],
)
def test_no_message_shows_a_secret(address: str) -> None:
    error = UserError(f"cannot open '{address}'", where=address, expected=f"{address} or", hint=f"see {address}")
    for shown in (str(error), str(pickle.loads(pickle.dumps(error))), repr(error)):
        assert not any(part in shown for part in (SECRET, SECRET[:8], SECRET[-8:], "AKIA"))
    assert without_secrets(str(error)) == str(error)
    for door in (open_store, find_corpus):
        with pytest.raises(UserError, match="credentials in an address") as caught:
            door(address)
        assert SECRET[-8:] not in str(caught.value)
        assert "AKIA" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/results?endpoint_override=http://minio.example:9000&region=us-east-1&scheme=http",
        "gs://anonymous@bucket/run@2",
        "s3://bucket/a:b@c",
        "http://host:9000/a@b",
        "file:///home/anna@lab/what?a=b",
        "/home/anna@lab/what?key=b",
        "C:/data/a@b",
        "anna@host:/data/corpus",
        "results/fusion_vn@studies-3:x/y",
        "results/a:b@c/d",
        "a.yaml:12: the mail anna@lab.example:/x",
        "train.jsonl:3: 'a:b' is not anna@lab.example/x",
        "mylab.gate:DeepGate",
        "mailto:anna@lab.example",
        "fusion=tacfn",
        "10.0.0.1:6379",
        "see https://docs.ray.io/en/latest/index.html",
    ],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert without_secrets(text) == text
    refuse_secrets(text)
