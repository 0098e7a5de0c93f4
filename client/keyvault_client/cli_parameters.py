"""Parameters that several commands of `keyvault` share, each with its line of --help."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import ExistingFile, NonExistentPath, PositiveInt

KeyId = Annotated[str, Parameter(help="The record's name.")]
KeyFile = Annotated[ExistingFile, Parameter(env_var="KEYVAULT_KEY", help="A key file, as generate-key writes it.")]
NewKeyFile = Annotated[ExistingFile, Parameter(help="The key file of the new key.")]
NewFile = Annotated[NonExistentPath | None, Parameter(help="Save the key to this new file instead of standard output.")]
InPlace = Annotated[bool, Parameter(help="Replace the key file; the old one stays until the new one is on the disk.")]
AllowEmpty = Annotated[bool, Parameter(help="Accept data of 0 bytes, which is otherwise refused.")]
FromFile = Annotated[
    ExistingFile | None, Parameter(help="Take the data from this file, as it is, instead of standard input.")
]
OutputFile = Annotated[
    Path | None,
    Parameter(name=["--output", "-o"], help="Write to this file, mode 0600; one that is there is replaced at once."),
]
Raw = Annotated[bool, Parameter(help="Write the bytes as they are to a terminal, too.")]
AsJson = Annotated[bool, Parameter(help="Write JSON.")]
AsJsonData = Annotated[bool, Parameter(help="Write JSON, with the data in base64.")]
AsJsonLines = Annotated[bool, Parameter(help="Write JSON, one object a line.")]
AtRevision = Annotated[PositiveInt | None, Parameter(help="Only write if the record is at this revision.")]
