"""GraphQL by the schema of `nivoda.graphql`: texts are parsed and validated once, answers are shaped by walking the
selection. graphql-core's own executor would resolve three thousand fields for one page, one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLList,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    build_schema,
    get_named_type,
    get_nullable_type,
    parse,
    validate,
)
from graphql.execution.values import VariableValues, get_argument_values, get_directive_values, get_variable_values
from graphql.type import GraphQLIncludeDirective, GraphQLSkipDirective

SDL = Path(__file__).with_name("nivoda.graphql")
TYPE_NAME = "__typename"
INTROSPECTION = ("__schema", "__type")


class InvalidQuery(Exception):
    """A text that is no query of the schema, or variables that do not fit it."""

    def __init__(self, errors: Sequence[GraphQLError]) -> None:
        super().__init__("; ".join(error.message for error in errors))
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Field:
    """One selected field: the key of its answer, its name, what is selected of it, and where arguments stand."""

    key: str
    name: str
    type_name: str
    is_list: bool
    nodes: tuple[FieldNode, ...]
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """A checked request: its root fields and the variables."""

    fields: tuple[Field, ...]
    variables: VariableValues
    document: DocumentNode


@functools.cache
def schema() -> GraphQLSchema:
    """The schema that the sandbox serves."""
    return build_schema(SDL.read_text(encoding="utf-8"))


def checked(text: str, variables: Mapping[str, Any], name: str | None = None) -> Operation:
    """The operation of a query text. Raises InvalidQuery."""
    document = _document(text)
    operations = [each for each in document.definitions if isinstance(each, OperationDefinitionNode)]
    chosen = [each for each in operations if name is None or (each.name and each.name.value == name)]
    if len(chosen) != 1:
        raise InvalidQuery([GraphQLError("Must provide operation name if query contains multiple operations.")])
    if chosen[0].operation is not OperationType.QUERY:
        raise InvalidQuery([GraphQLError("Schema is not configured to execute mutation operation.", chosen[0])])
    values = get_variable_values(schema(), chosen[0].variable_definitions or (), dict(variables))
    if isinstance(values, list):
        raise InvalidQuery(values)
    root = schema().query_type
    if root is None:
        raise InvalidQuery([GraphQLError("The schema has no queries.")])
    # Directives depend on variables; without them a text always selects the same.
    fields = _Selection(document, values).of(root, (chosen[0].selection_set,)) if "@" in text else _fields(text, name)
    return Operation(fields, values, document)


def arguments(field: Field, parent: str, variables: VariableValues) -> dict[str, Any]:
    """The arguments of a field. Raises GraphQLError."""
    owner = schema().type_map[parent]
    if not isinstance(owner, GraphQLObjectType):
        raise GraphQLError(f"{parent} has no fields.")
    return get_argument_values(owner.fields[field.name], field.nodes[0], variables)


def shaped(value: Any, fields: Sequence[Field], type_name: str) -> Any:
    """An object, with the selected fields alone."""
    if value is None:
        return None
    answer: dict[str, Any] = {}
    for field in fields:
        if field.name == TYPE_NAME:
            answer[field.key] = type_name
        elif not field.fields:
            answer[field.key] = value[field.name]
        elif field.is_list:
            answer[field.key] = [shaped(each, field.fields, field.type_name) for each in value[field.name]]
        else:
            answer[field.key] = shaped(value[field.name], field.fields, field.type_name)
    return answer


@functools.lru_cache(maxsize=512)
def _document(text: str) -> DocumentNode:
    try:
        document = parse(text)
    except GraphQLError as broken:
        raise InvalidQuery([broken]) from broken
    errors = validate(schema(), document)
    if errors:
        raise InvalidQuery(errors)
    return document


@functools.lru_cache(maxsize=512)
def _fields(text: str, name: str | None) -> tuple[Field, ...]:
    """The root fields of a text without directives, whose selection no variable changes."""
    document = _document(text)
    operation = next(
        each
        for each in document.definitions
        if isinstance(each, OperationDefinitionNode) and (name is None or (each.name and each.name.value == name))
    )
    root = schema().query_type
    nothing = VariableValues({}, {})
    return _Selection(document, nothing).of(root, (operation.selection_set,)) if root else ()


class _Selection:
    """Merges fields, fragments and directives into one tree."""

    def __init__(self, document: DocumentNode, variables: VariableValues) -> None:
        self._variables = variables
        self._fragments = {
            each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)
        }

    def of(self, owner: GraphQLObjectType, selections: Sequence[SelectionSetNode]) -> tuple[Field, ...]:
        """The fields that are selected of a type."""
        found: dict[str, list[FieldNode]] = {}
        for selection in selections:
            for node in self._nodes(selection):
                key = node.alias.value if node.alias else node.name.value
                found.setdefault(key, []).append(node)
        return tuple(self._field(owner, key, tuple(nodes)) for key, nodes in found.items())

    def _field(self, owner: GraphQLObjectType, key: str, nodes: tuple[FieldNode, ...]) -> Field:
        name = nodes[0].name.value
        if name.startswith("__"):
            return Field(key, name, "String", False, nodes, ())
        declared = owner.fields[name].type
        inner = get_named_type(declared)
        fields: tuple[Field, ...] = ()
        if isinstance(inner, GraphQLObjectType):
            fields = self.of(inner, [node.selection_set for node in nodes if node.selection_set])
        return Field(key, name, inner.name, isinstance(get_nullable_type(declared), GraphQLList), nodes, fields)

    def _nodes(self, selection: SelectionSetNode) -> Iterator[FieldNode]:
        for node in selection.selections:
            if not self._is_wanted(node):
                continue
            if isinstance(node, FieldNode):
                yield node
            elif isinstance(node, InlineFragmentNode):
                yield from self._nodes(node.selection_set)
            elif isinstance(node, FragmentSpreadNode):
                yield from self._nodes(self._fragments[node.name.value].selection_set)

    def _is_wanted(self, node: Any) -> bool:
        if not node.directives:
            return True
        skip = get_directive_values(GraphQLSkipDirective, node, self._variables)
        include = get_directive_values(GraphQLIncludeDirective, node, self._variables)
        return not (skip and skip["if"]) and not (include and not include["if"])
