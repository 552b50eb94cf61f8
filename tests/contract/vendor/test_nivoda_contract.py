"""Nivoda's introspection against the schema that the sandbox serves and the queries that we send."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLObjectType,
    GraphQLSchema,
    build_client_schema,
    is_specified_scalar_type,
    parse,
    validate,
)
from graphql.execution.values import get_variable_values

from penstock.sources import nivoda
from sandbox.nivoda_query import schema

OURS = {name: kind for name, kind in schema().type_map.items() if not name.startswith("__")}
DOCUMENTS = {
    "login": nivoda.LOGIN_DOCUMENT,
    "page": nivoda.page_document(with_count=False),
    "page and count": nivoda.page_document(with_count=True),
    "page on staging": nivoda.page_document(with_count=True, without=nivoda.STAGING_ENUMS),
    "one count": nivoda.counts_document(1),
    "ten counts": nivoda.counts_document(10),
}


@pytest.fixture(scope="module")
def vendor(contracts: Path) -> GraphQLSchema:
    told = json.loads((contracts / "nivoda_introspection.json").read_text())
    return build_client_schema(told.get("data", told))


@pytest.mark.parametrize("name", OURS)
def test_a_type_of_the_sandbox_is_the_vendors(vendor: GraphQLSchema, name: str) -> None:
    ours, theirs = OURS[name], vendor.type_map[name]
    assert type(ours) is type(theirs)
    if isinstance(ours, GraphQLObjectType):
        assert isinstance(theirs, GraphQLObjectType)
        for field, declared in ours.fields.items():
            assert str(declared.type) == str(theirs.fields[field].type), field
            given = {key: str(argument.type) for key, argument in declared.args.items()}
            assert given == {key: str(argument.type) for key, argument in theirs.fields[field].args.items()}, field
    elif isinstance(ours, GraphQLInputObjectType):
        assert isinstance(theirs, GraphQLInputObjectType)
        assert {key: str(field.type) for key, field in ours.fields.items()} == {
            key: str(field.type) for key, field in theirs.fields.items()
        }
    elif isinstance(ours, GraphQLEnumType):
        assert isinstance(theirs, GraphQLEnumType)
        assert set(ours.values) == set(theirs.values)
    else:
        assert is_specified_scalar_type(ours)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_we_send_fits_the_vendors_schema(vendor: GraphQLSchema, name: str) -> None:
    assert validate(vendor, parse(DOCUMENTS[name])) == []


def test_our_filters_and_orders_fit_the_vendors_input_types(vendor: GraphQLSchema) -> None:
    query = nivoda.base_query("labgrown", nivoda.OLD_BASE_FILTER)
    query = nivoda.with_sizes(nivoda.with_price(query, "dollar_per_carat", 0, nivoda.TOP), 0.5, 0.6)
    query = nivoda.with_updated(query, None, None) | {"certificate_numbers": ["1"]}
    [operation] = parse(nivoda.page_document(with_count=True)).definitions
    for order in nivoda.ORDERS:
        for direction in ("ASC", "DESC"):
            given = nivoda.page_request(query, 0, nivoda.PAGE_SIZE, order, direction).body
            assert given is not None
            values = get_variable_values(vendor, operation.variable_definitions, given["variables"])  # type: ignore[attr-defined]
            assert not isinstance(values, list), values
