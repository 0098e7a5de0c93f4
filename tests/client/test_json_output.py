"""What commands write with --json: the fields that docs/command.md says."""

import json
import re
from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.support.repository import DOCS
from tests.support.shell import Shell

pytestmark = [pytest.mark.process, pytest.mark.slow]


def documented() -> dict[str, set[str]]:
    """Return the fields of each command, as the table of the page has them."""
    rows = re.findall(r"^\| (`.*?) \| (.*`.*?) \|$", (DOCS / "command.md").read_text(), re.MULTILINE)
    fields = {names: set(re.findall(r"`([a-z_0-9]+)`", re.sub(r"\(.*?\)", "", said))) for names, said in rows}
    return {name: found for names, found in fields.items() for name in re.findall("`(.*?)`", names)}


def test_each_command_has_the_fields_of_the_page(shell: Shell) -> None:
    shell.environment |= {"KEYVAULT_KEY": "a.key", "KEYVAULT_EDITOR": "true"}
    shell.ok("generate-key json/ --save a.key")
    shell.ok("generate-key json/ --save b.key")
    encryptor = Cipher(algorithms.AES256(bytes(32)), modes.ECB()).encryptor()
    data = encryptor.update(b"x" + bytes([15]) * 15) + encryptor.finalize()
    old = json.dumps({"data": b64encode(data).decode(), "secret": b64encode(bytes(32)).decode()}).encode()
    lines = {
        "keys add": ("a.key --keys folder", b""),
        "keys": ("--keys folder", b""),
        "generate-key": ("json/own --save c.key", b""),
        "rotate": ("json/ --new-key b.key", b""),
        "rewrap-keys": ("folder", b""),
        "create": ("json/x", b"1"),
        "update": ("json/x", b"2"),
        "edit": ("json/x", b""),
        "diff": ("json/x 1", b""),
        "read": ("json/x", b""),
        "restore": ("json/x --revision 1", b""),
        "list": ("json/", b""),
        "whoami": ("", b""),
        "history": ("json/x", b""),
        "import": ("json/", b"A=1"),
        "rotate-key": ("json/x --new-key b.key", b""),
        "delete": ("json/x --key b.key", b""),
        "inspect": ("", shell.ok("seal json/x --revision 1", b"1")),
        "open": ("json/x", shell.ok("seal json/x --revision 1", b"1")),
        "import-legacy": ("json/old --key a.key", old),
    }
    shown = {}
    for verb, (arguments, given) in lines.items():
        done = shell.run(f"{verb} {arguments} --json", given)
        assert done.returncode == 0, done.stderr
        shown[verb] = set(json.loads(done.stdout.splitlines()[0]))
    assert shown == documented()
