"""Which record goes into which variable of a program, and what a variable cannot hold."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyvault_client.errors import InvalidRequest, KeyVaultError, NotFound
from keyvault_client.records import Record
from keyvault_client.variables import CREDENTIALS, MAX_FILE, parse_assignments, values_of, without_credentials

NOW = datetime.now(UTC)


def record(data: bytes) -> Record:
    return Record("prod/db", data, 1, NOW, NOW)


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.env"
    file.write_text("\ufeff# the database\n\n  DB = prod/db \nUSER=prod/user=1\n")
    assert parse_assignments(["DB=prod/other"], file) == {"DB": "prod/other", "USER": "prod/user=1"}


@pytest.mark.parametrize("given", ["", "DB", "=prod/db", "1DB=prod/db", "D B=prod/db", "DB=", "DB=prod/", "DB=a b"])
def test_an_invalid_assignment_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequest, match=r"--env|key_id"):
        parse_assignments([given], None)


def test_a_variable_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"^DB is given twice$"):
        parse_assignments(["DB=prod/db", "DB=prod/db"], None)
    (tmp_path / "run.env").write_text("DB=a\nDB=b\n")
    with pytest.raises(InvalidRequest, match=r"run\.env: DB is given twice$"):
        parse_assignments([], tmp_path / "run.env")


def test_no_variable_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.env").write_text("# nothing\n")
    with pytest.raises(InvalidRequest, match="--env-file"):
        parse_assignments([], tmp_path / "run.env")


@pytest.mark.parametrize("line", ["DB='hunter 2'", "hunter2!", "DB=hunter2!", "export DB=prod/hunter2"])
def test_a_file_with_values_is_refused_without_showing_them(tmp_path: Path, line: str) -> None:
    (tmp_path / "run.env").write_text(f"A=prod/a\n{line}\n")
    with pytest.raises(InvalidRequest, match=r"run\.env: line 2: ") as refused:
        parse_assignments([], tmp_path / "run.env")
    assert "hunter" not in str(refused.value)


def test_a_file_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.env").write_bytes(bytes(MAX_FILE + 1))
    with pytest.raises(InvalidRequest, match="larger than"):
        parse_assignments([], tmp_path / "run.env")


def test_values_are_the_data_as_it_is() -> None:
    found = {"prod/a": record("Grüße\n".encode()), "prod/b": record(b"")}
    assert values_of({"A": "prod/a", "B": "prod/b", "C": "prod/a"}, found) == {"A": "Grüße\n", "B": "", "C": "Grüße\n"}


@pytest.mark.parametrize(("data", "why"), [(b"hunter\xff", "not UTF-8"), (b"hunter\0", "NUL")])
def test_data_that_no_variable_holds_is_one_sentence(data: bytes, why: str) -> None:
    with pytest.raises(KeyVaultError, match=rf"^DB=prod/db: .*{why}") as refused:
        values_of({"DB": "prod/db"}, {"prod/db": record(data)})
    assert "hunter" not in str(refused.value)


def test_a_missing_record_names_its_variable() -> None:
    with pytest.raises(NotFound, match=r"^DB=prod/db: no such record$"):
        values_of({"DB": "prod/db"}, {"prod/db": NotFound("no such record")})


def test_our_credentials_are_not_passed_on() -> None:
    environment = dict.fromkeys(CREDENTIALS, "x") | {"KEYVAULT_ADDRESS": "a", "KEYVAULT_POLICY": "b", "HOME": "c"}
    assert without_credentials(environment) == {"KEYVAULT_ADDRESS": "a", "KEYVAULT_POLICY": "b", "HOME": "c"}
