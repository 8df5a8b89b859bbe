"""Conditions of a recipe: text that others wrote, so it is parsed, checked and run where it can do nothing.

A condition is one expression over the columns of one sample. DuckDB's own parser gives its tree; columns
are looked up, and whatever is more than an expression of values (subqueries, windows, aggregates,
functions whose answer changes or that ask for something outside) is refused before anything runs.
What runs, runs in a database without files, network and extensions, whose settings are locked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from biomedica.errors import ConfigError
from biomedica.select.columns import COLUMNS, find_column

_MEMORY = "4GB"
_REFUSED = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "`*`",
    "PARAMETER": "a parameter",
    "POSITIONAL_REFERENCE": "a column by its number",
    "DEFAULT": "DEFAULT",
}
_MACROS = (
    "array_", "list_", "map_contains_", "md5_number_", "date_add", "days_in_month", "fdiv", "fmod",
    "if", "nullif", "split_part",
)  # fmt: skip
_ROWS = "rows_of_samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A checked expression."""

    what: str
    """Whose it is, for messages: "rule 'size'"."""
    sql: str
    """With columns by their full names, quoted: `("figure.width" > 64)`."""
    columns: tuple[str, ...]
    """Full names, each once, in order."""
    kind: str
    """DuckDB's type of its value."""


_TAKES_LAMBDA = frozenset(
    f"{kind}{name}"
    for kind in ("", "list_", "array_")
    for name in ("transform", "apply", "filter", "reduce")
)
_OF_NOW = frozenset(
    {
        "age",
        "version",
        "now",
        "today",
        "getdate",
        "transaction_timestamp",
        "localtime",
        "localtimestamp",
    }
)


class Sandbox:
    """A database that holds nothing and reaches nothing. To be closed."""

    def __init__(self) -> None:
        self._db = duckdb.connect(
            config={
                "threads": "1",
                "memory_limit": _MEMORY,
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "enable_external_access": "false",
                "python_enable_replacements": "false",
            }
        )
        self._functions = {
            name
            for name, kind in self._db.execute(
                "SELECT function_name, function_type FROM duckdb_functions() GROUP BY ALL "
                "HAVING (function_type = 'macro' OR function_type = 'scalar') AND "
                "coalesce(bool_and(stability = 'CONSISTENT'), true)"
            ).fetchall()
            if (kind == "scalar" or name.startswith(_MACROS)) and not _tells_of_the_machine(name)
        }
        self._db.execute(
            "SET GLOBAL TimeZone = 'UTC'"
        )  # or what a day is depends on where it is asked
        self._db.execute("SET lock_configuration = true")

    def close(self) -> None:
        """Free the database."""
        self._db.close()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection to the same locked database, for one thread."""
        return self._db.cursor()

    def expression(self, text: str, what: str) -> Expression:
        """Check an expression. Raises `ConfigError` that names `what`."""
        try:
            tree, node = self._tree(text)
            names: dict[str, None] = {}
            self._visit(node, frozenset(), names)
        except ConfigError as error:
            raise ConfigError(f"{what}: {error}") from None
        sql = self._one("SELECT json_deserialize_sql(?)", json.dumps(tree))
        columns = tuple(sorted(names))
        sql = sql.removeprefix("SELECT ")
        return Expression(what=what, sql=sql, columns=columns, kind=self._type(sql, columns, what))

    def condition(self, text: str, what: str) -> Expression:
        """Check an expression that is true, false or null."""
        found = self.expression(text, what)
        if found.kind != "BOOLEAN":
            raise ConfigError(
                f"{what}: it gives {found.kind}; a condition (true or false) is expected"
            )
        return found

    def _one(self, query: str, value: str) -> str:
        row = self._db.execute(query, [value]).fetchone()
        assert row is not None
        return str(row[0])

    def _tree(self, text: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """(the whole statement, its only expression) of a text."""
        tree = json.loads(self._one("SELECT json_serialize_sql(?)", f"SELECT\n{text}\n"))
        if tree["error"]:
            said = tree["error_message"].splitlines()[0]
            raise ConfigError(f"{text!r} is no expression: {said}")
        statements = tree["statements"]
        node = statements[0]["node"]
        empty = ("where_clause", "having", "sample", "qualify", "group_expressions", "modifiers")
        is_plain = (
            len(statements) == 1
            and node["type"] == "SELECT_NODE"
            and len(node["select_list"]) == 1
            and node["from_table"]["type"] == "EMPTY"
            and not any(node.get(part) for part in empty)
            and not node["cte_map"]["map"]
            and not node["select_list"][0]["alias"]
        )
        if not is_plain:
            raise ConfigError(f"{text!r} is more than one expression (no FROM, no `;`, no AS)")
        return tree, node["select_list"][0]

    def _visit(
        self, node: Any, taken: frozenset[str], names: dict[str, None], takes_lambda: bool = False
    ) -> None:
        """Check a part of the tree; columns get their full names.

        taken          names that a lambda has given to its parameters
        takes_lambda   this is an argument of a function that takes one
        """
        if isinstance(node, list):
            for each in node:
                self._visit(each, taken, names, takes_lambda)
        elif isinstance(node, dict):
            kind = node.get("class")
            if kind in _REFUSED:
                raise ConfigError(f"{_REFUSED[kind]} is not allowed in a recipe")
            if kind == "COLUMN_REF":
                self._name(node, taken, names)
                return
            if kind == "LAMBDA":  # what JSON's arrow looks like too, with anything on its left
                if not takes_lambda:
                    raise ConfigError(
                        "`->` is not allowed: in list_filter and its like write `lambda x: ...`, of JSON take "
                        "json_extract"
                    )
                self._visit(node["expr"], taken | set(_parameters(node["lhs"])), names)
                return
            if kind == "FUNCTION":
                self._check_function(node["function_name"])
                takes_lambda = node["function_name"] in _TAKES_LAMBDA
            elif kind:
                takes_lambda = False
            for value in node.values():
                self._visit(value, taken, names, takes_lambda)

    def _name(self, node: dict[str, Any], taken: frozenset[str], names: dict[str, None]) -> None:
        words = node["column_names"]
        if words[0] in taken:
            return
        column = find_column(words)
        node["column_names"] = [column.full_name]
        names[column.full_name] = None

    def _check_function(self, name: str) -> None:
        if name not in self._functions:
            raise ConfigError(
                f"function {name} is not allowed in a recipe (or there is none): only functions of the "
                "row's own values are, whose answer is always the same"
            )

    def _type(self, sql: str, columns: tuple[str, ...], what: str) -> str:
        schema = pa.schema([(name, COLUMNS[name].type) for name in columns])
        with self.cursor() as cursor:
            cursor.register(_ROWS, _with_row(schema.empty_table()))
            try:
                return str(cursor.sql(f"SELECT {sql} FROM {_ROWS}").types[0])
            except duckdb.Error as error:
                raise ConfigError(f"{what}: {_first_line(error)}") from None


def _tells_of_the_machine(name: str) -> bool:
    """Whether a function's answer depends on when or where it is asked."""
    return name.startswith(("current_", "getenv", "pg_", "get_current")) or name in _OF_NOW


def _parameters(node: dict[str, Any]) -> Iterator[str]:
    """Names that a lambda gives to its parameters: one, or several in a row."""
    if node.get("class") == "COLUMN_REF" and len(node["column_names"]) == 1:
        yield node["column_names"][0]
    elif node.get("class") == "FUNCTION" and node["function_name"] == "row":
        for argument in node["arguments"]:
            yield from _parameters(argument.get("expression", argument))
    else:
        raise ConfigError("the left side of `->` is no name of a parameter")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _with_row(table: pa.Table) -> pa.Table:
    """The table with a column, for conditions that name none."""
    if table.num_columns:
        return table
    return table.append_column("row", pa.nulls(table.num_rows, pa.bool_()))


def evaluate(
    cursor: duckdb.DuckDBPyConnection,
    columns: Mapping[str, Any],
    num_rows: int,
    expressions: Mapping[str, str],
    whose: Mapping[str, str],
) -> pa.Table:
    """Values of expressions for each row, in the order of the rows.

    expressions   SQL by the name of the answer's column
    whose         for messages, by the same names
    """
    table = (
        pa.table(dict(columns)) if columns else pa.table({"row": pa.nulls(num_rows, pa.bool_())})
    )
    cursor.register(_ROWS, table)
    try:
        wanted = ", ".join(f'{sql} AS "{name}"' for name, sql in expressions.items())
        return cursor.sql(f"SELECT {wanted} FROM {_ROWS}").to_arrow_table()
    except duckdb.Error as error:
        if len(expressions) > 1:
            for name, sql in expressions.items():  # which of them it is
                evaluate(cursor, columns, num_rows, {name: sql}, whose)
        name = next(iter(expressions))
        raise ConfigError(f"{whose[name]}: {_first_line(error)}") from None
    finally:
        cursor.unregister(_ROWS)


def verdict_sql(condition: Expression) -> str:
    """SQL of a verdict: 0 false, 1 true, 2 null."""
    return f"coalesce(CAST({condition.sql} AS UTINYINT), CAST(2 AS UTINYINT))"
