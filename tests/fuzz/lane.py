"""One author who sends recipes, one after the other, and knows what has to be answered.

A lane's names are its own, so that what it expects does not depend on what others send. Nothing here may change the
known record; its envelope, its wrapped key and fresh keys for its name are at hand for trying.
"""

import hashlib
import random
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from keyvault_api import envelope as kve1
from keyvault_api.envelope import HEAD_SIZE, Kind
from keyvault_api.v1 import keyvault_pb2 as pb
from tests.fuzz.edits import edited
from tests.fuzz.recipes import KNOWN, Recipe, draw
from tests.fuzz.rule import KINDS, REQUESTS, RESPONSES, Book, Fate, Known, Stored
from tests.fuzz.targets import Answer, Target
from tests.support.production_server import TENANTS, UNWRAPPED
from tests.support.requests import Key

KNOWN_NAME = "known/record"
EXACT, OUTSIDE = 2, 6
"""The lane's keys for its first name alone, and for the known record."""


@dataclass
class Report:
    """What became of the messages of some lanes."""

    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By status and reason."""
    fates: Counter[Fate] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """A sentence for each answer that the rule does not give."""
    intact: bool = False
    """Whether the known record was as it had been afterwards, and the server did its work."""


class Lane:
    """Made by `opened`."""

    def __init__(self, target: Target, prefix: str, keys: list[Key], book: Book, report: Report) -> None:
        self._target = target
        self._prefix = prefix
        self._keys = keys
        self._book = book
        self._report = report
        self._page = pb.ListRequest()
        """Asks for the page after the last one."""
        self._written: dict[tuple[str, str], deque[bytes]] = defaultdict(lambda: deque(maxlen=32))

    async def run(self, chance: random.Random, messages: int) -> None:
        """Sends so many."""
        for number in range(messages):
            await self.send(draw(chance), f"{self._prefix} {number}")

    async def send(self, recipe: Recipe, where: str = "") -> Answer:
        """Sends one, and reports what is wrong with the answer, with the place where it was."""
        method, caller = recipe["method"], recipe.get("caller", "alice")
        message = self._message(recipe)
        fate = self._book.fate(method, TENANTS[caller], message, UNWRAPPED)
        answer = await self._target.send(method, caller, message)
        self._report.answers[answer.status, answer.reason] += 1
        self._report.fates[fate] += 1
        wrong = self._ok(method, TENANTS[caller], message, answer, fate) if answer.status == "OK" else []
        wrong += [] if answer.status == "OK" else self._error(answer, fate)
        self._report.wrong += [f"{where}: {sentence}; {recipe}" for sentence in wrong]
        return answer

    def _error(self, answer: Answer, fate: Fate) -> list[str]:
        wrong = [] if fate is Fate.REFUSED else [f"{answer.status} {answer.reason}, not {fate.value}"]
        if answer.status in ("INTERNAL", "UNKNOWN", "CRASH", "DATA_LOSS", "UNAVAILABLE", "DEADLINE_EXCEEDED"):
            wrong.append(f"{answer.status}: {answer.told}")
        if answer.infos != 1:
            wrong.append(f"{answer.status} with {answer.infos} ErrorInfo")
        if any(key.plaintext.hex() in answer.told or repr(key.plaintext)[2:-1] in answer.told for key in self._keys):
            wrong.append("an error shows a data key")
        return wrong

    def _ok(self, method: str, tenant: str, message: bytes, answer: Answer, fate: Fate) -> list[str]:
        if fate is Fate.REFUSED:
            return ["OK, not refused"]
        request, response = REQUESTS[method].FromString(message), RESPONSES[method].FromString(answer.body)
        if method == "Read":
            return self._read(self._book.records[tenant, request.key_id], request, response)
        if method in KINDS:
            return self._mutated(method, tenant, message, response, fate)
        return self._key(method, tenant, request, response)

    def _batch(self, tenant: str, request: pb.BatchReadRequest, response: pb.BatchReadResponse) -> list[str]:
        """Each item is as a Read of its own; none is too large for the answer."""
        found = [result.WhichOneof("answer") == "record" for result in response.results]
        if found != self._book.readable(tenant, request.items):
            return [f"BatchRead finds {found}"]
        wrong = []
        for item, result in zip(request.items, response.results, strict=True):
            if result.WhichOneof("answer") == "record":
                wrong += self._read(self._book.records[tenant, item.key_id], item, result.record)
        return wrong

    def _list(self, tenant: str, request: pb.ListRequest, response: pb.ListResponse) -> list[str]:
        """Names of other lanes are in it as well."""
        names, more = [name.key_id for name in response.names], response.next_page_token
        expected = [name for name in self._book.listed(tenant, request) if not more or name <= names[-1]]
        known = {name for owner, name in self._book.records if owner == tenant}
        self._page.CopyFrom(request)
        self._page.page_token = more
        if names != sorted(set(names)) or len(names) > min(request.page_size or 100, 1_000):
            return [f"List shows {names}"]
        found = [name for name in names if name in known]
        return [] if found == expected else [f"List shows {found}, expected {expected}"]

    def _read(
        self, stored: Stored, request: pb.ReadRequest | pb.BatchReadRequest.Item, response: pb.ReadResponse
    ) -> list[str]:
        same = request.known_revision == stored.revision
        if isinstance(request, pb.ReadRequest) and request.revision:
            earlier = stored.readable[request.revision]
            right = (response.revision, response.envelope) == (request.revision, earlier)
            return [] if right else [f"Read shows revision {response.revision}, expected {request.revision}"]
        expected = (stored.revision, b"" if same else stored.envelope, same, not stored.live)
        found = (response.revision, response.envelope, response.not_modified, response.deleted)
        return [] if found == expected else [f"Read shows revision {found[0]}, expected {expected[0]}"]

    def _mutated(self, method: str, tenant: str, message: bytes, response: Any, fate: Fate) -> list[str]:
        request = REQUESTS[method].FromString(message)
        expected = (kve1.parse(request.envelope).revision, fate is Fate.REPLAYED)
        if fate is Fate.WRITTEN:
            self._book.note(method, tenant, message)
            self._written[tenant, request.key_id].append(request.envelope)
        found = (response.revision, response.replayed)
        return [] if found == expected else [f"{method} answers {found}, expected {expected}"]

    def _key(self, method: str, tenant: str, request: Any, response: Any) -> list[str]:
        if method == "GenerateKey":
            made = Known(response.scope, Key(response.plaintext_key, response.wrapped_key, tenant))
            for at, scope in ((EXACT, f"{self._prefix}/0"), (OUTSIDE, KNOWN_NAME)):
                if (made.scope, tenant) == (scope, "acme"):
                    self._adopt(at, made)
            return [] if response.tenant == tenant and len(made.key.plaintext) == 32 else ["GenerateKey gives no key"]
        if method == "BatchRead":
            return self._batch(tenant, request, response)
        if method == "List":
            return self._list(tenant, request, response)
        if method == "ListRevisions":
            stored = self._book.records[tenant, request.key_id]
            expected = [(revision, len(envelope)) for revision, envelope in stored.readable.items()]
            found = [(one.revision, one.size) for one in response.revisions]
            return [] if found == expected else [f"ListRevisions shows {found}, expected {expected}"]
        if method == "WhoAmI":
            return [] if response.tenant == tenant else [f"WhoAmI says tenant {response.tenant}"]
        known = self._book.keys[request.wrapped_key]
        if method == "UnwrapKey":
            return [] if response.plaintext_key == known.key.plaintext else ["UnwrapKey gives another key"]
        for at, key in enumerate(self._keys):
            if key.wrapped == request.wrapped_key and key.plaintext == known.key.plaintext:
                self._adopt(at, Known(known.scope, Key(key.plaintext, response.wrapped_key, tenant)))
        return []

    def _adopt(self, at: int, known: Known) -> None:
        self._keys[at] = known.key
        self._book.keys[known.key.wrapped] = known

    def _message(self, recipe: Recipe) -> bytes:
        if "raw" in recipe:
            return bytes.fromhex(recipe["raw"])
        request = self._request(recipe)
        for field_name, *edit in recipe.get("edits", []):
            if field_name in request.DESCRIPTOR.fields_by_name:
                value = getattr(request, field_name)
                changed = edited(value.encode() if isinstance(value, str) else value, edit)
                setattr(request, field_name, changed.decode(errors="replace") if isinstance(value, str) else changed)
        message: bytes = request.SerializeToString()
        for field_name, *edit in recipe.get("edits", []):
            message = edited(message, edit) if field_name == "message" else message
        return message

    def _request(self, recipe: Recipe) -> Any:
        method, tenant = recipe["method"], TENANTS[recipe.get("caller", "alice")]
        name = self._name(recipe.get("name", 0))
        if method == "GenerateKey":
            return pb.GenerateKeyRequest(scope=name)
        if method == "Read":
            return self._reading(tenant, name, recipe)
        if method == "WhoAmI":
            return pb.WhoAmIRequest()
        if method == "List":
            size, goes_on = recipe.get("page", (0, False))
            return pb.ListRequest(
                prefix=self._page.prefix if goes_on else name.removesuffix("0"),
                page_size=size,
                page_token=self._page.page_token if goes_on else "",
                deleted=recipe.get("include_deleted", False),
            )
        if method == "BatchRead":
            names = [name, KNOWN_NAME, *(self._name(number) for number in range(recipe.get("old", 0) + 1))]
            return pb.BatchReadRequest(items=[pb.BatchReadRequest.Item(key_id=one) for one in names])
        if method == "ListRevisions":
            return pb.ListRevisionsRequest(key_id=name)
        if method in ("RewrapKey", "UnwrapKey"):
            key = self._keys[recipe.get("key", 5 if method == "UnwrapKey" else 0)]
            return REQUESTS[method](wrapped_key=key.wrapped)
        return self._mutation(method, tenant, name, recipe)

    def _reading(self, tenant: str, name: str, recipe: Recipe) -> pb.ReadRequest:
        stored, revision = self._book.records.get((tenant, name)), 0
        if "back" in recipe:
            revision = (stored.revision if stored else 0) - recipe["back"]
        return pb.ReadRequest(
            key_id=name,
            known_revision=recipe.get("known_revision", 0),
            include_deleted=recipe.get("include_deleted", False),
            revision=revision,
        )

    def _name(self, name: int | str) -> str:
        if name == KNOWN:
            return KNOWN_NAME
        return name if isinstance(name, str) else f"{self._prefix}/{name}"

    def _mutation(self, method: str, tenant: str, name: str, recipe: Recipe) -> Any:
        stored = self._book.records.get((tenant, name))
        present = self._keys[recipe["key"]] if "key" in recipe else self._owner(tenant, name, stored)
        request = REQUESTS[method](key_id=name, wrapped_key=present.wrapped)
        sealing, sealed = present, recipe.get("sealed", {})
        if method == "RotateKey":
            sealing = self._keys[recipe["new_key"]] if "new_key" in recipe else self._another(tenant, present)
            request.new_wrapped_key = sealing.wrapped
        old = self._written.get((tenant, name), deque())
        if name == KNOWN_NAME and stored:
            old = deque([stored.envelope])
        if recipe.get("old", len(old)) < len(old):
            request.envelope = old[-1 - recipe["old"]]
        else:
            request.envelope = self._sealed(sealing, name, stored, {"kind": KINDS[method]} | sealed)
        if method == "RotateKey":
            digest = hashlib.sha256(request.envelope).digest()
            wanted = {"kind": Kind.REKEY, "revision": sealed.get("revision", 1)} | recipe.get("permit", {})
            request.authorization = self._sealed(present, name, stored, wanted, digest)
        return request

    def _owner(self, tenant: str, name: str, stored: Stored | None) -> Key:
        """The key that owns the record; for the known record, one that would like to."""
        if name == KNOWN_NAME:
            return self._keys[OUTSIDE]
        return stored.known.key if stored else self._keys[0 if tenant == "acme" else 3]

    def _another(self, tenant: str, present: Key) -> Key:
        keys = self._keys[:2] if tenant == "acme" else self._keys[3:5]
        return next(key for key in keys if key.plaintext != present.plaintext)

    def _sealed(
        self, key: Key, name: str, stored: Stored | None, wanted: dict[str, Any], data: bytes | None = None
    ) -> bytes:
        """An envelope as wanted; what no envelope can be, has at least its header."""
        key = self._keys[wanted["key"]] if "key" in wanted else key
        name = self._name(wanted["name"]) if "name" in wanted else name
        tenant = wanted.get("tenant", key.tenant)
        kind, step = Kind(wanted["kind"]), wanted.get("revision", 1)
        revision = int(step) if isinstance(step, str) else (stored.revision if stored else 0) + step
        if data is None or "size" in wanted:
            data = bytes(0 if kind is Kind.TOMBSTONE else wanted.get("size", 20))
        try:
            return kve1.seal(key.plaintext, tenant, name, revision, data, kind)
        except ValueError:
            fixed = b"KVE\1\1" + bytes([kind, 0, 0]) + (revision % 2**64).to_bytes(8, "big")
            return fixed.ljust(HEAD_SIZE, b"\0") + data + bytes(16)


async def opened(target: Target, prefix: str, known: tuple[Known, bytes], report: Report) -> Lane:
    """With keys for `prefix`/, and none that could change the known record."""
    owner, envelope = known
    book = Book()
    book.keys[owner.key.wrapped] = owner
    book.records["acme", KNOWN_NAME] = Stored(owner)
    book.records["acme", KNOWN_NAME].write(owner, envelope)
    keys = []
    for caller, scope in (
        ("alice", f"{prefix}/"),
        ("alice", f"{prefix}/"),
        ("alice", f"{prefix}/0"),
        ("bob", f"{prefix}/"),
        ("bob", f"{prefix}/"),
        ("alice", UNWRAPPED),
    ):
        made = await minted(target, caller, scope)
        book.keys[made.key.wrapped] = made
        keys.append(made.key)
    keys.append(Key(bytes(32), owner.key.wrapped, "acme"))
    return Lane(target, prefix, keys, book, report)


async def minted(target: Target, caller: str, scope: str) -> Known:
    """A fresh key."""
    answer = await target.send("GenerateKey", caller, pb.GenerateKeyRequest(scope=scope).SerializeToString())
    made = pb.GenerateKeyResponse.FromString(answer.body)
    return Known(scope, Key(made.plaintext_key, made.wrapped_key, made.tenant))
