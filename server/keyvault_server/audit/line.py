"""The lines of the audit trail: how they are written, chained, and signed at checkpoints. docs/audit.md has the fields.

A line is JSON in the one form that `Chain` writes, its last members being

    "prev":"<MAC of the line before>"                                         32 bytes in hex; zeros before the first
    "signature":"<Ed25519 of the line so far>"                                of a checkpoint alone
    "mac":"<HMAC-SHA-256 over prev || the line so far and its closing brace>"

The rule of this file: a line is checked as the bytes that it is, never as what a parser makes of them. A checkpoint
also carries the SHA-256 of all lines from the checkpoint before it on, so that its signature covers them too.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from keyvault_server.audit.key import AuditKey, PublicAuditKey
from keyvault_server.core.caller import MAX_IDENTITY

VERSION = 1
"""Said in every boot line."""
CHECKPOINT_LINES = 1_000
"""Lines between two checkpoints at most."""
MAX_LINE = 64 * 1024
"""Bytes of a line, its end included."""
VACANCY = "VACANCY"
"""The kind of what a purge leaves."""
REFUSED = "refused"
"""The phase of a line that tells of several calls, by their number."""
ROTATE = "rotate"
"""The reason of a checkpoint that ends a file and begins the next one."""
MAX_TEXT, MAX_CALLER = 256, MAX_IDENTITY
"""Characters of a text; a longer one is cut."""

Fields: TypeAlias = Mapping[str, Any]

_GENESIS = "0" * 64
_MAC, _END = b',"mac":"', b'"}\n'
_SIGNATURE = b',"signature":"'
_MAC_SIZE, _SIGNATURE_SIZE = 64, 128  # hexadecimal digits

_encoder = json.JSONEncoder(separators=(",", ":"))


class BadLine(Exception):
    """A line is not what the vault wrote there; one clause says why."""


class Chain:
    """How far a log goes: the last line's seq and MAC, and what the next checkpoint will sign.

    Grows by one line at a time, written (`add`, `add_checkpoint`) or read (`follow`).
    """

    def __init__(self, log: str = "") -> None:
        self.log = log
        """The log's name: 16 random bytes in hex, made with its first line; "" until that is read."""
        self.seq = 0
        """The last line's number, from 1."""
        self.mac = _GENESIS
        """The last line's MAC."""
        self.since = 0
        """Lines since the last checkpoint."""
        self._digest = hashlib.sha256()

    @classmethod
    def at_checkpoint(cls, key: PublicAuditKey, line: bytes) -> "Chain":
        """A log as far as a checkpoint whose predecessors are unseen: its own MAC and signature are checked alone."""
        body, mac = _taken_apart(line)
        fields = parsed(line)
        _check_mac(key, fields, body, mac)
        check_signature(key, line)
        chain = cls(fields["log"])
        chain._grow(line, fields["seq"], mac, is_checkpoint=True)
        return chain

    def copy(self) -> "Chain":
        """The same place in the log, growing apart from here."""
        twin = Chain(self.log)
        twin.seq, twin.mac, twin.since = self.seq, self.mac, self.since
        twin._digest = self._digest.copy()
        return twin

    def add(self, key: AuditKey, text: str) -> bytes:
        """The next line, of what `encoded` made."""
        return self._written(key, f'{{"seq":{self.seq + 1},{text},"prev":"{self.mac}"'.encode(), is_checkpoint=False)

    def add_checkpoint(self, key: AuditKey, text: str) -> bytes:
        """The next line, signed; its text names the phase "checkpoint"."""
        signs = f'"log":"{self.log}","digest":"{self._digest.hexdigest()}"'
        body = f'{{"seq":{self.seq + 1},{text},{signs},"prev":"{self.mac}"'.encode()
        body += _SIGNATURE + key.sign(body).hex().encode() + b'"'
        return self._written(key, body, is_checkpoint=True)

    def follow(self, key: PublicAuditKey, line: bytes) -> Fields:
        """Takes the next line as it was read. Raises BadLine; the chain then stays where it is.

        With the public key alone, a line is proved by the next checkpoint only.
        """
        body, mac = _taken_apart(line)
        fields = parsed(line)
        if fields["seq"] != self.seq + 1:
            raise BadLine(f"it says seq {fields['seq']} where {self.seq + 1} comes next")
        if fields["prev"] != self.mac:
            raise BadLine("it does not follow the line before it")
        _check_mac(key, fields, body, mac)
        if is_checkpoint := fields["phase"] == "checkpoint":
            if fields["digest"] != self._digest.hexdigest():
                raise BadLine("the lines before this checkpoint are not those that it was made for")
            check_signature(key, line)
        elif self.since == CHECKPOINT_LINES:
            raise BadLine(f"no checkpoint came for {CHECKPOINT_LINES} lines")
        self._name(fields)
        self._grow(line, fields["seq"], mac, is_checkpoint=is_checkpoint)
        return fields

    def _name(self, fields: Fields) -> None:
        """Every boot line and checkpoint names the log, the first line above all."""
        log = fields.get("log", "" if self.seq == 0 else self.log)
        if not log or log != (self.log or log):
            raise BadLine("it belongs to another log" if log else "a log begins with a boot line")
        self.log = log

    def _written(self, key: AuditKey, body: bytes, *, is_checkpoint: bool) -> bytes:
        mac = key.mac(bytes.fromhex(self.mac), body + b"}").hex()
        line = body + _MAC + mac.encode() + _END
        self._grow(line, self.seq + 1, mac, is_checkpoint=is_checkpoint)
        return line

    def _grow(self, line: bytes, seq: int, mac: str, *, is_checkpoint: bool) -> None:
        self.seq, self.mac = seq, mac
        if is_checkpoint:
            self._digest = hashlib.sha256()
            self.since = 0
        else:
            self.since += 1
        self._digest.update(line)


def encoded(**fields: str | int | bool | None) -> str:
    """The inside of a line, without what is None or ""."""
    return _encoder.encode({name: value for name, value in fields.items() if value not in (None, "")})[1:-1]


def cut(text: str, limit: int = MAX_TEXT) -> str:
    """A text that is not longer than its limit and one character that shows that it was."""
    return text if len(text) <= limit else text[:limit] + "…"


def name_value(key: AuditKey, tenant: str, key_id: str) -> str:
    """What stands for a name in a line."""
    return key.value("name", tenant.encode(errors="surrogatepass"), key_id.encode(errors="surrogatepass"))


def envelope_value(key: AuditKey, mark: bytes) -> str:
    """What stands for an envelope in a line; `mark` is its digest."""
    return key.value("envelope", mark)


def head_value(key: AuditKey, head: bytes) -> str:
    """What stands for a head in a line: of the change, or of what it is written over."""
    return key.value("head", head)


def parsed(line: bytes) -> Fields:
    """What a line says; proved by nothing yet. Raises BadLine for one that no vault wrote."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise BadLine("it is no line of an audit log") from None
    if not isinstance(fields, dict) or type(fields.get("seq")) is not int:
        raise BadLine("it is no line of an audit log")
    texts = ("prev", "log", "digest") if fields.get("phase") == "checkpoint" else ("prev", "phase")
    if not all(isinstance(fields.get(name), str) for name in texts) or not isinstance(fields.get("log", ""), str):
        raise BadLine("it is no line of an audit log")
    if fields.get("phase") == REFUSED and not (type(fields.get("count")) is int and fields["count"] > 0):
        raise BadLine("it is no line of an audit log")
    return fields


def _taken_apart(line: bytes) -> tuple[bytes, str]:
    """The line without its MAC and closing brace; the MAC."""
    at = len(line) - len(_END) - _MAC_SIZE
    mac = line[at : -len(_END)]
    if at < len(_MAC) or line[at - len(_MAC) : at] != _MAC or line[-len(_END) :] != _END or not mac.isalnum():
        raise BadLine("it is no line of an audit log")
    return line[: at - len(_MAC)], mac.decode("ascii", "replace")


def _check_mac(key: PublicAuditKey, fields: Fields, body: bytes, mac: str) -> None:
    if not isinstance(key, AuditKey):
        return
    try:
        expected = key.mac(bytes.fromhex(fields["prev"]), body + b"}").hex()
    except ValueError:
        raise BadLine("it is no line of an audit log") from None
    if not hmac.compare_digest(expected.encode(), mac.encode()):
        raise BadLine("its MAC does not fit: it was edited, or written with another audit key")


def check_signature(key: PublicAuditKey, line: bytes) -> None:
    """Raises BadLine for a line that is no checkpoint which this key signed."""
    body, _ = _taken_apart(line)
    at = len(body) - 1 - _SIGNATURE_SIZE
    try:
        signature = bytes.fromhex(body[at:-1].decode("ascii"))
    except ValueError:
        signature = b""
    if body[at - len(_SIGNATURE) : at] != _SIGNATURE or not key.signed(body[: at - len(_SIGNATURE)], signature):
        raise BadLine("its signature is not by this audit key")
