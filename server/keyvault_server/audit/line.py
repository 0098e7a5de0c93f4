"""The lines of the audit log: written, chained, and signed at checkpoints. docs/audit.md has the fields.

A line is JSON in the one form that `Chain` writes. Its last members are

    "prev":"<MAC of the line before>"                                         32 bytes in hex; zeros before the first
    "signature":"<Ed25519 of the line so far>"                                in checkpoints only
    "mac":"<HMAC-SHA-256 over prev || the line so far and its closing brace>"

A checkpoint also has the SHA-256 of all lines since the checkpoint before it (included), so that its signature covers
them too. The rule of this file: it checks a line's bytes, never what a parser makes of them.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, TypeAlias

from keyvault_server.audit.key import AuditKey, PublicAuditKey
from keyvault_server.core.caller import MAX_IDENTITY

VERSION = 1
"""Version of the format, in every boot line."""
CHECKPOINT_LINES = 1_000
"""Maximum number of lines between two checkpoints."""
MAX_LINE = 64 * 1024
"""Bytes of a line, its end included."""
VACANCY = "VACANCY"
"""Kind of what a purge leaves."""
COUNTED_REFUSALS = "refused"
"""Phase of a line that gives the number of rejected calls without lines of their own."""
BATCH = '"batch":true,'
"""Text of the field that the first line of each batch has; a batch is synced before the next one is written."""
ROTATE = "rotate"
"""Reason of a checkpoint that ends a file and begins the next one."""
MAX_TEXT, MAX_CALLER = 256, MAX_IDENTITY
"""Characters of a text, and of a caller; a longer one is shortened."""

Fields: TypeAlias = Mapping[str, Any]

_GENESIS = "0" * 64
_MAC, _END = b',"mac":"', b'"}\n'
_SIGNATURE = b',"signature":"'
_MAC_SIZE, _SIGNATURE_SIZE = 64, 128  # hexadecimal digits

_NOT_A_LINE = "not a valid audit log line"


class BadLine(Exception):
    """A line is not what the vault wrote there; the message is one clause that says why."""


class Chain:
    """The end of a log: the last line's seq and MAC, and the digest that the next checkpoint will sign.

    Advances by one line at a time, written (`add`, `add_checkpoint`) or read (`follow`).
    """

    def __init__(self, log: str = "") -> None:
        self.log = log
        """The log's name: 16 random bytes in hex, made with its first line; "" until that is read."""
        self.seq = 0
        """The last line's number, from 1."""
        self.mac = _GENESIS
        """The last line's MAC."""
        self.since_checkpoint = 0
        """Lines since the last checkpoint."""
        self._digest = hashlib.sha256()

    @classmethod
    def at_checkpoint(cls, key: PublicAuditKey, line: bytes) -> "Chain":
        """Begin at a checkpoint whose earlier lines are unknown: check its own MAC and signature. Raises BadLine."""
        body, mac = _split_mac(line)
        fields = parse_line(line)
        _check_mac(key, fields, body, mac)
        check_signature(key, line)
        chain = cls(fields["log"])
        chain._advance(line, fields["seq"], mac, is_checkpoint=True)
        return chain

    def copy(self) -> "Chain":
        """Return another chain at the same place."""
        twin = Chain(self.log)
        twin.seq, twin.mac, twin.since_checkpoint = self.seq, self.mac, self.since_checkpoint
        twin._digest = self._digest.copy()
        return twin

    def add(self, key: AuditKey, text: str, *, first: bool = False) -> bytes:
        """Return the next line, from a text that `encode_fields` made; `first` marks it as the first of its batch."""
        body = f'{{"seq":{self.seq + 1},{BATCH if first else ""}{text},"prev":"{self.mac}"'.encode()
        return self._finish(key, body, is_checkpoint=False)

    def add_checkpoint(self, key: AuditKey, text: str, *, first: bool = False) -> bytes:
        """Return the next line, signed; its text must have the phase "checkpoint". See `add` for `first`."""
        signs = f'"log":"{self.log}","digest":"{self._digest.hexdigest()}"'
        body = f'{{"seq":{self.seq + 1},{BATCH if first else ""}{text},{signs},"prev":"{self.mac}"'.encode()
        body += _SIGNATURE + key.sign(body).hex().encode() + b'"'
        return self._finish(key, body, is_checkpoint=True)

    def follow(self, key: PublicAuditKey, line: bytes) -> Fields:
        """Check the next line as it was read, and advance. Raises BadLine; the chain then stays where it is.

        With the public key alone, only the next checkpoint proves a line.
        """
        body, mac = _split_mac(line)
        fields = parse_line(line)
        if fields["seq"] != self.seq + 1:
            raise BadLine(f"it has seq {fields['seq']}, expected {self.seq + 1}")
        if fields["prev"] != self.mac:
            raise BadLine("it does not follow the line before it")
        _check_mac(key, fields, body, mac)
        if is_checkpoint := fields["phase"] == "checkpoint":
            if fields["digest"] != self._digest.hexdigest():
                raise BadLine("the lines before this checkpoint are not those that it signs")
            check_signature(key, line)
        elif self.since_checkpoint == CHECKPOINT_LINES:
            raise BadLine(f"there is no checkpoint in the {CHECKPOINT_LINES} lines before it")
        self._check_log(fields)
        self._advance(line, fields["seq"], mac, is_checkpoint=is_checkpoint)
        return fields

    def _check_log(self, fields: Fields) -> None:
        """Check the log's name, which the first line and every checkpoint must have."""
        log = fields.get("log", "" if self.seq == 0 else self.log)
        if not log or log != (self.log or log):
            raise BadLine("it belongs to another log" if log else "not a boot line, with which every log begins")
        self.log = log

    def _finish(self, key: AuditKey, body: bytes, *, is_checkpoint: bool) -> bytes:
        mac = key.mac(bytes.fromhex(self.mac), body + b"}").hex()
        line = body + _MAC + mac.encode() + _END
        self._advance(line, self.seq + 1, mac, is_checkpoint=is_checkpoint)
        return line

    def _advance(self, line: bytes, seq: int, mac: str, *, is_checkpoint: bool) -> None:
        self.seq, self.mac = seq, mac
        if is_checkpoint:
            self._digest = hashlib.sha256()
            self.since_checkpoint = 0
        else:
            self.since_checkpoint += 1
        self._digest.update(line)


def encode_fields(**fields: str | int | bool | None) -> str:
    """Return the inside of a line, without fields that are None or "": the JSON that `json.dumps` makes, in a third."""
    return ",".join(
        [f'"{name}":{_encode(value)}' for name, value in fields.items() if value is not None and value != ""]
    )


def _encode(value: str | int) -> str:
    if isinstance(value, str):
        return quoted(value)
    return str(value).lower()  # of a bool


def shorten(text: str, limit: int = MAX_TEXT) -> str:
    """Return the text, or its first `limit` characters and one that shows that more followed."""
    return text if len(text) <= limit else text[:limit] + "…"


def name_value(key: AuditKey, tenant: str, key_id: str) -> str:
    """Return what a line has in place of a name."""
    return key.value("name", tenant.encode(errors="surrogatepass"), key_id.encode(errors="surrogatepass"))


def envelope_value(key: AuditKey, digest: bytes) -> str:
    """Return what a line has in place of an envelope, from the envelope's digest."""
    return key.value("envelope", digest)


def head_value(key: AuditKey, head: bytes) -> str:
    """Return what a line has in place of a head: the new one, or the expected one that it replaces."""
    return key.value("head", head)


def is_intact(key: AuditKey, line: bytes) -> bool:
    """Return whether a line is one that the holder of the key wrote, wherever it stands."""
    try:
        body, mac = _split_mac(line)
        _check_mac(key, parse_line(line), body, mac)
    except BadLine:
        return False
    return True


def parse_line(line: bytes) -> Fields:
    """Return a line's fields, which nothing proves yet. Raises BadLine if no vault can have written it."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise BadLine(_NOT_A_LINE) from None
    if not isinstance(fields, dict) or type(fields.get("seq")) is not int:
        raise BadLine(_NOT_A_LINE)
    texts = ("prev", "log", "digest") if fields.get("phase") == "checkpoint" else ("prev", "phase")
    if not all(isinstance(fields.get(name), str) for name in texts) or not isinstance(fields.get("log", ""), str):
        raise BadLine(_NOT_A_LINE)
    if fields.get("phase") == COUNTED_REFUSALS and not (type(fields.get("count")) is int and fields["count"] > 0):
        raise BadLine(_NOT_A_LINE)
    return fields


def _split_mac(line: bytes) -> tuple[bytes, str]:
    """Return the line without its MAC and closing brace, and the MAC. Raises BadLine."""
    at = len(line) - len(_END) - _MAC_SIZE
    mac = line[at : -len(_END)]
    if at < len(_MAC) or line[at - len(_MAC) : at] != _MAC or line[-len(_END) :] != _END or not mac.isalnum():
        raise BadLine(_NOT_A_LINE)
    return line[: at - len(_MAC)], mac.decode("ascii", "replace")


def _check_mac(key: PublicAuditKey, fields: Fields, body: bytes, mac: str) -> None:
    if not isinstance(key, AuditKey):
        return
    try:
        expected = key.mac(bytes.fromhex(fields["prev"]), body + b"}").hex()
    except ValueError:
        raise BadLine(_NOT_A_LINE) from None
    if not hmac.compare_digest(expected.encode(), mac.encode()):
        raise BadLine("its MAC does not match: it was edited, or written with another audit key")


def check_signature(key: PublicAuditKey, line: bytes) -> None:
    """Raise BadLine unless the line is a checkpoint that this key signed."""
    body, _ = _split_mac(line)
    at = len(body) - 1 - _SIGNATURE_SIZE
    try:
        signature = bytes.fromhex(body[at:-1].decode("ascii"))
    except ValueError:
        signature = b""
    if body[at - len(_SIGNATURE) : at] != _SIGNATURE or not key.has_signed(body[: at - len(_SIGNATURE)], signature):
        raise BadLine("its signature is not by this audit key")
