"""Slack's error strings and what each makes of a notification."""

from __future__ import annotations

import pytest

from penstock.core.errors import CATALOGUE
from penstock.core.slack_errors import CODES, SCOPES, Scope, scope_of

# chat.postMessage's list: https://docs.slack.dev/reference/methods/chat.postMessage#errors
EXPECTED = {
    Scope.RATE: "ratelimited rate_limited",
    Scope.PASSING: "service_unavailable internal_error request_timeout team_added_to_org",
    Scope.AMBIGUOUS: "fatal_error",
    Scope.CHANNEL: "channel_not_found not_in_channel is_archived restricted_action no_permission "
    "restricted_action_read_only_channel restricted_action_thread_only_channel messages_tab_disabled "
    "restricted_action_non_threadable_channel restricted_action_thread_locked ekm_access_denied "
    "channel_is_limited_access team_access_not_granted user_not_found users_not_found cannot_dm_bot",
    Scope.WORKSPACE: "invalid_auth not_authed account_inactive token_revoked token_expired missing_scope "
    "not_allowed_token_type accesslimited access_denied org_login_required two_factor_setup_required "
    "app_access_restricted enterprise_is_restricted deprecated_endpoint method_deprecated",
    Scope.QUOTA: "message_limit_exceeded",
    Scope.MESSAGE: "msg_too_long msg_blocks_too_long invalid_blocks invalid_blocks_format no_text too_many_attachments "
    "attachment_payload_limit_exceeded too_many_contact_cards metadata_too_large invalid_metadata_format "
    "invalid_metadata_schema metadata_must_be_sent_from_app markdown_text_conflict invalid_arguments invalid_arg_name "
    "invalid_array_arg invalid_charset invalid_form_data invalid_post_type missing_post_type "
    "cannot_reply_to_message duplicate_channel_not_found duplicate_message_not_found external_channel_migrating",
    Scope.UNKNOWN: "something_new_1 something_new_2 ratelimited_maybe unknown_error_x ok_but_not",
}
CASES = [(string, scope) for scope, strings in EXPECTED.items() for string in strings.split()]


def test_every_string_of_slack_s_list_has_its_place() -> None:
    assert [(string, scope_of(string)) for string, _ in CASES] == CASES


def test_the_list_is_whole() -> None:
    assert len(SCOPES) >= 60
    assert {scope for _, scope in CASES} == set(Scope)


def test_every_scope_has_a_code_that_the_catalogue_knows() -> None:
    assert set(CODES) == set(Scope)
    assert set(CODES.values()) <= set(CATALOGUE)


@pytest.mark.parametrize(
    ("string", "status", "scope"),
    [
        ("anything", 429, Scope.RATE),
        ("", 500, Scope.AMBIGUOUS),
        ("internal_error", 503, Scope.AMBIGUOUS),
        ("channel_not_found", 200, Scope.CHANNEL),
        ("", 404, Scope.UNKNOWN),
    ],
)
def test_a_server_s_error_beats_its_string(string: str, status: int, scope: Scope) -> None:
    assert scope_of(string, status) is scope
