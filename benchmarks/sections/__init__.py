"""The tables of docs/performance.md, one module for each kind of question."""

from benchmarks.sections.batch import BATCH
from benchmarks.sections.calls import CALLS
from benchmarks.sections.load import LATENCY, MIX, OVERLOAD
from benchmarks.sections.processes import CLIENT, COMMAND, SERVER
from benchmarks.sections.refusals import REFUSED
from benchmarks.sections.shapes import CLOUD, SHAPE, SIZE

SECTIONS = (CALLS, SHAPE, REFUSED, LATENCY, MIX, OVERLOAD, SIZE, CLOUD, BATCH, SERVER, CLIENT, COMMAND)
