r"""What differs between two revisions of a record, as `diff -u` shows it.

The rule of this file: a line ends with \n and nothing else does, and a last line without it is marked. So no output
means the same data.
"""

from difflib import unified_diff

from keyvault_client.records import Record

END_MISSING = "\\ No newline at end of file"


def differences(old: Record, new: Record) -> list[str]:
    """Return the lines of a unified diff, without line ends; none if the data is the same.

    Raises UnicodeDecodeError for data that is not text.
    """
    before, after = (_lines(record.plaintext.decode()) for record in (old, new))
    old_name, new_name = (f"{record.key_id} at revision {record.revision}" for record in (old, new))
    lines: list[str] = []
    for number, line in enumerate(unified_diff(before, after, old_name, new_name, lineterm="")):
        is_data = number >= 2 and not line.startswith("@@")  # after the two lines with the names
        lines.append(line.removesuffix("\n"))
        if is_data and not line.endswith("\n"):
            lines.append(END_MISSING)
    return lines


def _lines(text: str) -> list[str]:
    *whole, last = text.split("\n")
    return [f"{line}\n" for line in whole] + ([last] if last else [])
