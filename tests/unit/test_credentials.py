"""Tokens from the environment and from files, and the sentences for those that are refused."""

import json
import threading
from pathlib import Path

import pytest

from aistore_data.client.access import Access
from aistore_data.client.credentials import Token, tls_context
from sources.errors import ClusterError

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1In0.c2lnbmF0dXJl-_x"


@pytest.mark.parametrize("text", [json.dumps({"token": JWT}), f'{{\n "token": "{JWT}"\n}}\n', JWT, f"{JWT}\n"])
def test_a_file_as_the_command_line_writes_it_or_with_the_token_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "auth.token"
    file.write_text(text)
    assert Token("", str(file)).current() == JWT
    assert Token("given", str(file)).current() == "given"  # as AIStore's own tools prefer it


def test_a_file_that_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "auth.token"
    file.write_text("first")
    token = Token("", str(file))
    assert token.current() == "first"
    new = tmp_path / "new"
    new.write_text("other")  # of the same length
    new.replace(file)
    assert token.current() == "other"


def test_a_file_that_is_being_written(tmp_path: Path) -> None:
    file = tmp_path / "auth.token"
    file.write_text("first")
    token = Token("", str(file))
    assert token.current() == "first"
    for text in ("", '{"tok'):
        file.write_text(text)
        assert token.current() == "first"
    file.unlink()
    assert token.current() == "first" and not token.renewed("first")
    writer = threading.Timer(0.05, file.write_text, ["second"])
    writer.start()
    assert token.renewed("first") and token.current() == "second"
    writer.join()


@pytest.mark.parametrize("text", ["", "  \n", "{", "{}", '{"token": 1}', '{"token": ""}', "two words", "tökèn"])
def test_a_file_without_a_token(tmp_path: Path, text: str) -> None:
    file = tmp_path / "auth.token"
    file.write_text(text)
    with pytest.raises(ClusterError, match=f"AIS_AUTHN_TOKEN_FILE={file} holds no token") as caught:
        Token("", str(file)).current()
    assert not text.strip() or text not in str(caught.value).replace("{…}", "").replace('{"token": "…"}', "")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=f"AIS_AUTHN_TOKEN_FILE={tmp_path} cannot be read: Is a directory"):
        Token("", str(tmp_path)).current()
    with pytest.raises(ClusterError, match="nowhere cannot be read: No such file"):
        Token("", str(tmp_path / "nowhere")).current()


@pytest.mark.parametrize(
    ("token", "status", "said", "expected"),
    [
        (Token("", ""), 401, "token required", "it wants one. Set AIS_AUTHN_TOKEN"),
        (Token(JWT, ""), 401, f"[err: token expired]: {JWT}", "the token of AIS_AUTHN_TOKEN: it has expired"),
        (
            Token("opaque", ""),
            401,
            "who is opaque?",
            "refuses the token of AIS_AUTHN_TOKEN (status 401: who is TOKEN?)",
        ),
        (Token("", "/f"), 401, "no", "refuses the token of AIS_AUTHN_TOKEN_FILE=/f (status 401: no)"),
        (
            Token(JWT, ""),
            403,
            "no permissions",
            "(status 403: no permissions). Reading a bucket takes GET, HEAD and LIST",
        ),
        (Token("", "/f"), 403, "", "(status 403). Reading a bucket"),
    ],
)
def test_refusals(token: Token, status: int, said: str, expected: str) -> None:
    sentence = token.refused(status, said)
    assert expected in sentence and sentence.endswith(".")
    assert JWT not in sentence and "opaque" not in sentence


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", JWT)
    monkeypatch.setenv("AIS_AUTHN_TOKEN_FILE", "/f")
    access = Access.from_environment("https://host:51080/")
    assert (access.endpoint, access.token, access.token_file) == ("https://host:51080", JWT, "/f")
    assert JWT not in repr(access)
    with pytest.raises(ClusterError, match="names a user for host") as caught:
        Access.from_environment("https://me:geheim@host:51080")
    assert "geheim" not in str(caught.value)


def test_tls_files_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIS_CLIENT_CA", "AIS_CRT", "AIS_CRT_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIS_CRT", "/c")
    with pytest.raises(ClusterError, match="AIS_CRT is set, but AIS_CRT_KEY is not"):
        tls_context()
    monkeypatch.setenv("AIS_CRT_KEY", "/k")
    with pytest.raises(ClusterError, match="AIS_CRT=/c and AIS_CRT_KEY=/k are not a certificate and its key"):
        tls_context()
    monkeypatch.setenv("AIS_CLIENT_CA", str(tmp_path / "ca"))
    with pytest.raises(ClusterError, match="AIS_CLIENT_CA=.*No such file"):
        tls_context()
    (tmp_path / "ca").write_text("no PEM")
    with pytest.raises(ClusterError, match="AIS_CLIENT_CA=.* is not a PEM file of certificates"):
        tls_context()
