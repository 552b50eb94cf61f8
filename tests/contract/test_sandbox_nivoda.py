"""Nivoda's endpoint as any GraphQL client meets it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import requests
from graphql import build_client_schema, get_introspection_query, print_schema

from sandbox import nivoda_tokens
from sandbox.nivoda_query import schema
from tests.nivoda_bench import post, switch
from tests.sandbox_fixture import Sandbox

STONES = 400


@pytest.fixture
def market(sandbox: Sandbox) -> Sandbox:
    switch(sandbox, natural=STONES, labgrown=100)
    return sandbox


def ask(sandbox: Sandbox, query: str, token: str | None = None, status: int = 200, **variables: Any) -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = {"query": query, "variables": variables}
    answer = requests.post(f"{sandbox.url}/nivoda/api/diamonds", json=body, headers=headers, timeout=10)
    assert answer.status_code == status, answer.text
    return answer.json()


def login(sandbox: Sandbox) -> Mapping[str, Any]:
    user, password = nivoda_tokens.username(sandbox.state), nivoda_tokens.password(sandbox.state)
    query = (
        "query ($u: String!, $p: String!) "
        "{ authenticate { username_and_password(username: $u, password: $p) { token expires refresh_token } } }"
    )
    session: Mapping[str, Any] = ask(sandbox, query, u=user, p=password)["data"]["authenticate"][
        "username_and_password"
    ]
    return session


def error_of(body: Any) -> tuple[str, list[Any]]:
    [failure] = body["errors"]
    return failure["message"], failure.get("path", [])


def test_it_answers_an_introspection_with_its_own_schema(sandbox: Sandbox) -> None:
    told = ask(sandbox, get_introspection_query(descriptions=True))["data"]
    assert print_schema(build_client_schema(told)) == print_schema(schema())


@pytest.mark.parametrize("status", [200, 400])
def test_unknown_fields_and_broken_texts_are_refused(market: Sandbox, status: int) -> None:
    switch(market, validation_status=status)
    token = login(market)["token"]
    query = "{ diamonds_by_query { items { id weight } } }"
    message, _ = error_of(ask(market, query, token, status))
    assert message.startswith("Cannot query field 'weight' on type 'DiamondItem'")
    assert "Syntax Error" in error_of(ask(market, "{ diamonds", token, status))[0]
    query = "query ($q: DiamondQuery) { diamonds_by_query_count(query: $q) }"
    assert "updatedAt" in error_of(ask(market, query, token, status, q={"updatedAt": {}}))[0]
    message, _ = error_of(ask(market, query, token, status, q={"dollar_value": {"from": 0, "to": 2**31}}))
    assert "32-bit" in message
    assert "'from'" in error_of(ask(market, query, token, status, q={"dollar_value": {"to": 1}}))[0]


def test_both_ways_to_authenticate_see_the_same(market: Sandbox) -> None:
    token = login(market)["token"]
    inner = "diamonds_by_query_count n: diamonds_by_query(limit: 2) { items { id price } total_count __typename }"
    plain = ask(market, f"{{ {inner} }}", token)["data"]
    wrapped = ask(market, f"query ($t: String) {{ as(token: $t) {{ {inner} }} }}", t=token)["data"]["as"]
    assert plain == wrapped
    assert plain["diamonds_by_query_count"] == STONES
    assert plain["n"]["__typename"] == "DiamondList"
    assert plain["n"]["total_count"] == 2


def test_without_a_token_or_with_a_bad_one_nothing_is_told(market: Sandbox) -> None:
    query = "query ($t: String) { as(token: $t) { diamonds_by_query_count } }"
    body = ask(market, "{ diamonds_by_query_count }")
    assert (error_of(body)[0], body["data"]) == ("authentication required", None)
    assert error_of(ask(market, query, t="eyJ.eyJ.x")) == ("invalid token", ["as"])
    switch(market, token_seconds=-1)
    assert error_of(ask(market, query, t=login(market)["token"])) == ("jwt expired", ["as"])


def test_revoked_tokens_are_refused_and_a_session_can_be_refreshed(market: Sandbox) -> None:
    session = login(market)
    post(market, "revoke")
    assert error_of(ask(market, "{ diamonds_by_query_count }", session["token"]))[0] == "invalid token"
    query = "query ($t: String!) { authenticate { refresh_token(refresh_token: $t) { token } } }"
    fresh = ask(market, query, t=session["refresh_token"])["data"]["authenticate"]["refresh_token"]["token"]
    assert ask(market, "{ diamonds_by_query_count }", fresh)["data"] == {"diamonds_by_query_count": STONES}
    assert error_of(ask(market, query, t="wrong"))[1] == ["authenticate", "refresh_token"]


def test_a_wrong_password_has_no_session(market: Sandbox) -> None:
    query = '{ authenticate { username_and_password(username: "a", password: "b") { token } } }'
    body = ask(market, query)
    assert body["data"] == {"authenticate": {"username_and_password": None}}
    assert error_of(body)[0] == "Invalid username or password"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("limit: 51", "The limit argument cannot be greater than 50"),
        ("offset: 50001", "The offset argument cannot be greater than 50000"),
        ('query: {updated: {to: "yesterday"}}', "invalid input syntax"),
        ("query: {is_fbn: true}", "filter is_fbn is not served by the sandbox"),
    ],
)
def test_arguments_that_are_refused_while_the_query_is_worked(market: Sandbox, arguments: str, message: str) -> None:
    body = ask(market, f"{{ x: diamonds_by_query({arguments}) {{ items {{ id }} }} }}", login(market)["token"])
    assert body["data"] is None
    assert error_of(body)[0].startswith(message)
    assert error_of(body)[1] == ["x"]


def test_enumerations_are_bare_words_in_the_text_and_texts_in_variables(market: Sandbox) -> None:
    token = login(market)["token"]
    inline = "{ diamonds_by_query(order: {type: price, direction: DESC}, limit: 3) { items { price } } }"
    by_variable = "query ($o: DiamondOrder) { diamonds_by_query(order: $o, limit: 3) { items { price } } }"
    first = ask(market, inline, token)["data"]
    assert first == ask(market, by_variable, token, o={"type": "price", "direction": "DESC"})["data"]
    prices = [item["price"] for item in first["diamonds_by_query"]["items"]]
    assert prices == sorted(prices, reverse=True)


def test_fragments_aliases_and_directives_shape_the_answer(market: Sandbox) -> None:
    query = """
        query Page($more: Boolean!) { diamonds_by_query(limit: 1) { items {
          offer: id ...stone diamond { certificate { carats @skip(if: $more) color @include(if: $more) } }
        } } }
        fragment stone on DiamondItem { diamond { id certificate { kind: __typename lab } } }
    """
    token = login(market)["token"]
    [item] = ask(market, query, token, more=True)["data"]["diamonds_by_query"]["items"]
    assert item["offer"] == f"DIAMOND/{item['diamond']['id']}"
    assert item["diamond"]["certificate"].keys() == {"kind", "lab", "color"}
    [item] = ask(market, query, token, more=False)["data"]["diamonds_by_query"]["items"]
    assert item["diamond"]["certificate"].keys() == {"kind", "lab", "carats"}


@pytest.mark.parametrize(("kind", "expected"), [("page", 50), ("remaining", STONES - 350), ("total", STONES)])
def test_the_total_of_a_page_is_what_the_switch_says(market: Sandbox, kind: str, expected: int) -> None:
    switch(market, total_count=kind)
    query = "{ diamonds_by_query(offset: 350) { total_count } }"
    assert ask(market, query, login(market)["token"])["data"]["diamonds_by_query"]["total_count"] == expected


def test_certificates_are_found_whatever_else_is_asked(market: Sandbox) -> None:
    token = login(market)["token"]
    query = """
        query ($q: DiamondQuery) {
          diamonds_by_query(query: $q) { items { diamond { certificate { certNumber labgrown } } } }
          diamonds_by_query_count(query: $q)
        }
    """
    numbers = ["1200000003", "5400000005", "9", "no number"]
    q = {
        "certificate_numbers": numbers,
        "labgrown": True,
        "availability": ["SOLD"],
        "dollar_value": {"from": 1, "to": 1},
    }
    data = ask(market, query, token, q=q)["data"]
    certificates = [item["diamond"]["certificate"] for item in data["diamonds_by_query"]["items"]]
    assert certificates == [
        {"certNumber": "1200000003", "labgrown": False},
        {"certNumber": "5400000005", "labgrown": True},
    ]
    assert data["diamonds_by_query_count"] == 2


def test_several_suppliers_offer_a_stone_under_one_certificate(market: Sandbox) -> None:
    query = '{ diamonds_by_query_count(query: {certificate_numbers: ["1200000198"]}) }'
    assert ask(market, query, login(market)["token"])["data"] == {"diamonds_by_query_count": 2}


def test_a_single_diamond_is_found_by_its_id(market: Sandbox) -> None:
    token = login(market)["token"]
    query = "{ diamonds_by_query(limit: 1) { items { id price } } }"
    [item] = ask(market, query, token)["data"]["diamonds_by_query"]["items"]
    query = "query ($id: ID!) { get_diamond_by_id(diamond_id: $id) { id price } }"
    assert ask(market, query, token, id=item["id"])["data"]["get_diamond_by_id"] == item
    assert error_of(ask(market, query, token, id="DIAMOND/0"))[0] == "Diamond not found"


def test_values_outside_the_enumerations_leave_the_rest_of_the_page(market: Sandbox) -> None:
    switch(market, bad_enums=0.2, bad_colors=0.1)
    query = "{ p: diamonds_by_query { items { id diamond { c: certificate { clarity color floInt } } } } }"
    body = ask(market, query, login(market)["token"])
    items = body["data"]["p"]["items"]
    for failure in body["errors"]:
        path = failure["path"]
        assert path[:2] == ["p", "items"]
        item = items[path[2]]
        if path[-1] == "color":
            assert item is None
        else:
            assert item["diamond"]["c"][path[-1]] is None
    assert 0 < items.count(None) < 20


@pytest.mark.parametrize("has_retry_after", [True, False])
def test_a_request_too_many_is_refused_and_the_ledger_knows(market: Sandbox, has_retry_after: bool) -> None:
    token = login(market)["token"]
    switch(market, request_limit=5, request_period=60, has_retry_after=has_retry_after)
    url, headers = f"{market.url}/nivoda/api/diamonds", {"Authorization": f"Bearer {token}"}
    query = {"query": "{ diamonds_by_query_count }"}
    answers = [requests.post(url, json=query, headers=headers, timeout=10) for _ in range(7)]
    assert [each.status_code for each in answers] == [200] * 5 + [429] * 2
    assert ("retry-after" in answers[-1].headers) is has_retry_after
    [limit] = [row for row in market.get("calls")["limits"] if row["vendor"] == "nivoda"]
    assert (limit["most_granted"], limit["rejected"]) == (5, 2)


def test_doors_refuse_what_they_do_not_know(market: Sandbox) -> None:
    url = f"{market.url}/sandbox/nivoda"
    assert requests.put(url, json={"no_such": 1}, timeout=10).status_code == 400
    assert requests.get(f"{url}/truth", params={"feed": "emeralds"}, timeout=10).status_code == 400
    assert requests.get(f"{url}/truth", params={"since": "yesterday"}, timeout=10).status_code == 400
    assert requests.post(f"{url}/advance", json={}, timeout=10).status_code == 400
    assert requests.post(f"{url}/take_away", json={"feed": "emeralds", "share": 1}, timeout=10).status_code == 400
