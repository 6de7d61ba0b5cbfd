"""What a preparation leaves: shards, manifest and card that fit, to the byte, and no raw name."""

import json
import re
from html.parser import HTMLParser

import pytest
from pyarrow import parquet
from small import GOOD, many, small_schema, write_csv

from codex_ray.errors import ConfigError, DataError
from codex_ray.preparation.card import shown_cells
from codex_ray.preparation.prepare import prepare
from codex_ray.preparation.pseudonyms import PseudonymKey
from codex_ray.preparation.schema import Schema

KEY = PseudonymKey(bytes(range(32)))
QUASI = {"age": {"role": "quasi_identifier"}, "city": {"role": "quasi_identifier"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two hospitals of people whose names stand in notes as well."""
    folder = tmp_path_factory.mktemp("prepared")
    files = [
        str(write_csv(folder / f"{name}.csv", many(count, seed=count)))
        for name, count in (("north", 150), ("south", 90))
    ]
    schema = small_schema(files, columns=QUASI, anonymity={"k": 6, "l": 2}, smallest_cell=10)
    return prepare(Schema(**schema), folder / "out", key=KEY)


def contents(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_shard_keeps_what_the_schema_says_and_nothing_else(tmp_path):
    file = write_csv(tmp_path / "a.csv")
    made = prepare(Schema(**small_schema(str(file))), tmp_path / "out", key=KEY)
    table = parquet.read_table(made.folder / made.manifest.shards[0].file).to_pydict()
    assert "billing" not in table
    assert table["patient"] == [KEY.pseudonym("patient", line.split(",")[0]) for line in GOOD]
    assert table["age"] == [41, 52, 33]
    assert table["city"] == ["Bonn", "Koeln", "Bonn"]
    assert table["weight"] == [61.5, 80.0, None]
    assert table["smoker"] == [0, 1, 1]
    assert table["seen"] == [18322, 18823, 18261]  # days since 1970
    assert table["grade"] == ["low", "high", None]
    assert table["note"] == ["seen by Dr X", "[identifier] called [phone]", None]
    assert table["ill"] == [0, 1, 0]


def test_an_identifier_without_a_pseudonym_is_dropped(tmp_path):
    file = write_csv(tmp_path / "a.csv")
    schema = small_schema(str(file), columns={"patient": {"pseudonym": False}})
    made = prepare(Schema(**schema), tmp_path / "out", key=KEY)
    assert made.manifest.pseudonym_key is None
    assert "patient" not in parquet.read_schema(made.folder / made.manifest.shards[0].file).names


def test_no_name_and_no_address_is_in_any_artefact(made):
    """Every file, and every value of every shard: names were in a column and in a text."""
    held = contents(made.folder)
    values = []
    for said in made.manifest.shards:
        for column in parquet.read_table(made.folder / said.file).itercolumns():
            values += map(str, column.to_pylist())
    everything = b"\n".join([*held.values(), "\n".join(values).encode()]).lower()
    assert b"[identifier]" in everything and b"[email]" in everything
    for count in (150, 90):
        for person in range(count):
            assert f"person-{count}-{person:06d}".encode() not in everything
    assert b"mail.example" not in everything


def test_the_same_input_makes_the_same_bytes_and_a_new_key_new_pseudonyms(made, tmp_path):
    files = [str(made.folder.parent / f"{name}.csv") for name in ("north", "south")]
    schema = Schema(
        **small_schema(files, columns=QUASI, anonymity={"k": 6, "l": 2}, smallest_cell=10)
    )
    again = prepare(schema, tmp_path / "again", key=KEY)
    assert contents(again.folder) == contents(made.folder)
    other = prepare(schema, tmp_path / "other", key=PseudonymKey(bytes(32)))
    assert other.manifest.pseudonym_key != made.manifest.pseudonym_key
    tables = [parquet.read_table(m.folder / m.manifest.shards[0].file) for m in (made, other)]
    assert not set(tables[0]["patient"].to_pylist()) & set(tables[1]["patient"].to_pylist())
    assert tables[0].drop(["patient"]).equals(tables[1].drop(["patient"]))
    forgotten = [prepare(schema, tmp_path / name) for name in ("one", "two")]
    assert len({m.manifest.pseudonym_key for m in forgotten}) == 2


def test_shards_are_as_anonymous_as_the_card_says(made):
    card = json.loads((made.folder / "card.json").read_text())
    for said, client in zip(made.manifest.shards, card["clients"], strict=True):
        frame = parquet.read_table(made.folder / said.file).to_pandas()
        classes = frame.fillna({"grade": "?"}).groupby(["age.low", "age.high", "city"])
        assert client["anonymity"]["k"] == classes.size().min() >= 6
        assert client["anonymity"]["classes"] == classes.ngroups > 1
        for column in ("grade", "ill"):
            assert client["anonymity"]["l"][column] == classes[column].nunique().min() >= 2


def test_records_without_a_quasi_identifier_on_a_line_are_left_out_and_counted(tmp_path):
    lines = many(100)
    for place in (3, 50, 99):
        cells = lines[place].split(",")
        lines[place] = ",".join([cells[0], "?", *cells[2:]])
    file = write_csv(tmp_path / "a.csv", lines)
    columns = {"age": QUASI["age"] | {"required": False}}
    schema = small_schema(str(file), columns=columns, anonymity={"k": 5})
    made = prepare(Schema(**schema), tmp_path / "out", key=KEY)
    assert (made.holdings[0].records, made.holdings[0].suppressed) == (97, 3)
    patients = parquet.read_table(made.folder / made.manifest.shards[0].file)["patient"]
    names = [line.split(",")[0] for n, line in enumerate(lines) if n not in (3, 50, 99)]
    assert patients.to_pylist() == [KEY.pseudonym("patient", name) for name in names]


def test_a_client_that_cannot_be_anonymous_is_named(tmp_path):
    file = write_csv(tmp_path / "tiny.csv", many(7))
    schema = small_schema(str(file), columns=QUASI, anonymity={"k": 8})
    with pytest.raises(DataError, match=r"client 'tiny': its 7 records .* \(k = 8, l = 1\)"):
        prepare(Schema(**schema), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.csv"]


def test_the_card_says_what_it_must(made):
    card = json.loads((made.folder / "card.json").read_text())
    assert any("not anonymous" in said for said in card["said"])
    assert card["purpose"] == "care-study" and card["pseudonym_key"] == KEY.id
    assert card["dropped"] == ["billing"]
    assert len(card["sources_sha256"]) == 2
    assert card["schema_sha256"] == made.manifest.schema_sha256
    assert {c["name"]: c["becomes"] for c in card["columns"]}["age"] == "interval"


def test_the_card_shows_no_small_cell(tmp_path):
    lines = many(60)
    lines = [line[:-1] + str(int(n < 4)) for n, line in enumerate(lines)]
    file = write_csv(tmp_path / "a.csv", lines)
    made = prepare(Schema(**small_schema(str(file), smallest_cell=10)), tmp_path / "out")
    client = json.loads((made.folder / "card.json").read_text())["clients"][0]
    # The 4 are hidden, and so are the 56: with the 60 they would tell.
    assert client["records"] == 60
    assert client["labels"] == {"0": "not shown", "1": "fewer than 10"}
    assert client["suppressed"] == "fewer than 10"
    assert client["duplicates"]["exact"] == "fewer than 10"


@pytest.mark.parametrize(
    ("counts", "shown"),
    [
        ([12, 30], [12, 30]),
        ([3, 30, 20], ["fewer than 10", 30, "not shown"]),
        ([3, 4, 20], ["fewer than 10", "fewer than 10", 20]),
        ([0, 50], ["fewer than 10", "not shown"]),
        ([5], ["fewer than 10"]),
    ],
)
def test_one_hidden_cell_takes_another_with_it(counts, shown):
    assert shown_cells(counts, least=10) == shown


class _Page(HTMLParser):
    """Collects tags and what they would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "action")]


def test_the_page_stands_alone_and_escapes_what_it_shows(tmp_path):
    file = write_csv(tmp_path / "a.csv", many(30))
    hostile = "<script>alert(1)</script><img src=x>"
    schema = small_schema(str(file), columns={"age": {"description": hostile, "unit": hostile}})
    made = prepare(Schema(**schema), tmp_path / "out")
    text = (made.folder / "card.html").read_text()
    page = _Page()
    page.feed(text)
    assert not page.loads and not {"script", "img", "link", "iframe"} & set(page.tags)
    assert "not anonymous" in text and "url(" not in text and "@import" not in text
    assert made.manifest.card_sha256 in text


def test_the_papers_name_no_time_and_no_path(made):
    for name in ("card.json", "card.html", "manifest.json", "schema.json"):
        text = (made.folder / name).read_text()
        assert str(made.folder.parent) not in text
        assert not re.search(r"\b20[2-9]\d-\d\d-\d\dT", text)


SCHEMAS = {
    "a purpose without consent": ({"purpose": "marketing"}, "allows care-study and not 'mark"),
    "a column under another consent": (
        {"columns": {"age": {"consent": "contract"}}},
        "column 'age' is used under consent 'contract', which allows billing",
    ),
    "an unknown consent": ({"columns": {"age": {"consent": "stud"}}}, "did you mean 'study'"),
    "no k": ({"columns": QUASI}, "anonymity.k: is missing"),
    "k without quasi-identifiers": ({"anonymity": {"k": 5}}, "no column with role quasi_ident"),
    "two labels": ({"columns": {"smoker": {"role": "label"}}}, "2 have role label"),
    "no range": ({"columns": {"age": {"range": None}}}, "columns.age.range: is missing"),
    "an empty range": ({"columns": {"age": {"range": [5, 5]}}}, "columns.age.range: is empty"),
    "a value twice": ({"columns": {"city": {"values": ["a", "a"]}}}, "values: a value is list"),
    "yes and no": ({"columns": {"city": {"values": [True, False]}}}, "put them in quotes"),
    "an optional label": ({"columns": {"ill": {"required": False}}}, "ill.required"),
    "a mask that there is not": ({"columns": {"note": {"masks": ["mail"]}}}, "masks: there is"),
    "an own bad pattern": ({"patterns": {"x": "("}}, "patterns.x: RE2"),
    "an unknown column for clients": (
        {"clients": {"kind": "column", "column": "hospital"}}, "no column 'hospital'",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changed", "match"), SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_that_cannot_be_right_is_refused(changed, match):
    with pytest.raises(ConfigError, match=match):
        Schema(**small_schema("a.csv", **changed))


def test_a_dropped_column_needs_no_consent():
    schema = Schema(**small_schema("a.csv", columns={"billing": {"consent": "contract"}}))
    assert not schema.columns["billing"].used


def test_the_hash_of_a_schema_is_that_of_its_rules_and_not_of_its_place():
    one, other = (Schema(**small_schema(file)) for file in ("a.csv", "b.csv"))
    assert one.sha256 == other.sha256
    stricter = Schema(**small_schema("a.csv", columns={"age": {"range": [0, 100]}}))
    assert stricter.sha256 != one.sha256
