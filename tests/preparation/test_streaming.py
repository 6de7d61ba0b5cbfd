"""A file is never held in memory: 300 MB are prepared in less than half of that."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PARTS = 30
LINES = 30_000
NOTES = 290

MEASURED = """
import sys, resource
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from small import small_schema, write_csv
from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.schema import Schema

columns = {
    "patient": {"pseudonym": False},
    "age": {"role": "quasi_identifier"},
    "city": {"role": "quasi_identifier"},
    "note": {"masks": ["email"]},
}
schema = Schema(**small_schema(sys.argv[1], columns=columns, anonymity={"k": 50}))
# Libraries load parts of themselves when they are first used, and Arrow even pandas.
warm = Path(sys.argv[2] + ".csv")
prepare(Schema(**small_schema(str(write_csv(warm)))), Path(sys.argv[2] + ".warm"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = prepare(schema, Path(sys.argv[2]))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(made.holdings[0].records, (after - before) / 1024)
"""


@pytest.mark.slow
def test_three_hundred_megabytes_take_less_than_half_of_that(tmp_path):
    from small import HEADER, many

    file = tmp_path / "large.csv"
    cells = [line.split(",") for line in many(LINES)]
    block = [",".join([*c[:7], f"{c[7]} {'x' * NOTES}", *c[8:]]) + "\n" for c in cells]
    with file.open("w") as out:
        out.write(HEADER + "\n")
        for part in range(PARTS):
            out.writelines(f"{part}-{line}" for line in block)
    assert file.stat().st_size > 300 * 2**20
    command = [sys.executable, "-c", MEASURED, str(file), str(tmp_path / "out"), str(HERE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    records, grown = done.stdout.split()
    assert int(records) == PARTS * LINES
    assert float(grown) < 150, f"{grown} MiB"
