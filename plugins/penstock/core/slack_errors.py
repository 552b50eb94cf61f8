"""Slack's error strings: whom each one concerns, and with it what is to be done.

The list is that of chat.postMessage, with what conversations.open, conversations.history and users.lookupByEmail add
(https://docs.slack.dev/reference/methods/chat.postMessage#errors).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Scope(StrEnum):
    """What an error is about."""

    RATE = "rate"
    """Too fast: wait for Retry-After. Nothing was delivered."""

    PASSING = "passing"
    """Slack's own trouble, said before it did anything: later. Nothing was delivered."""

    AMBIGUOUS = "ambiguous"
    """Nobody can tell whether the message arrived: look it up before the next try."""

    CHANNEL = "channel"
    """This channel or person cannot be written to: its messages wait, a person is told."""

    WORKSPACE = "workspace"
    """The token is refused: nothing can be sent anywhere, a person is told."""

    QUOTA = "quota"
    """The workspace has used its messages up: nothing for an hour."""

    MESSAGE = "message"
    """This message will never be taken as it is."""

    UNKNOWN = "unknown"
    """A string that is not in the list: tried again, then a dead letter."""


_STRINGS: Mapping[Scope, str] = {
    Scope.RATE: "ratelimited rate_limited",
    Scope.PASSING: "service_unavailable internal_error request_timeout team_added_to_org",
    Scope.AMBIGUOUS: "fatal_error",  # "some aspect of the operation may have succeeded"
    Scope.CHANNEL: (
        "channel_not_found not_in_channel is_archived restricted_action restricted_action_read_only_channel "
        "restricted_action_thread_only_channel restricted_action_non_threadable_channel "
        "restricted_action_thread_locked messages_tab_disabled no_permission ekm_access_denied "
        "channel_is_limited_access team_access_not_granted slack_connect_file_link_sharing_blocked "
        "as_user_not_supported user_not_found users_not_found user_disabled user_not_visible cannot_dm_bot "
        "user_is_restricted user_is_bot is_inactive method_not_supported_for_channel_type invalid_users "
        "users_list_not_supplied"
    ),
    Scope.WORKSPACE: (
        "invalid_auth not_authed account_inactive token_revoked token_expired missing_scope not_allowed_token_type "
        "accesslimited access_denied org_login_required two_factor_setup_required app_access_restricted "
        "enterprise_is_restricted team_not_found deprecated_endpoint method_deprecated"
    ),
    Scope.QUOTA: "message_limit_exceeded",
    Scope.MESSAGE: (
        "msg_too_long msg_blocks_too_long invalid_blocks invalid_blocks_format no_text too_many_attachments "
        "attachment_payload_limit_exceeded too_many_contact_cards metadata_too_large "
        "invalid_metadata_format invalid_metadata_schema metadata_must_be_sent_from_app markdown_text_conflict "
        "invalid_arguments invalid_arg_name invalid_array_arg invalid_charset invalid_form_data invalid_json "
        "invalid_post_type json_not_object missing_post_type missing_charset cannot_reply_to_message "
        "duplicate_channel_not_found duplicate_message_not_found external_channel_migrating invalid_cursor "
        "invalid_limit invalid_ts_oldest invalid_ts_latest invalid_metadata_keys"
    ),
}

SCOPES: Mapping[str, Scope] = MappingProxyType(
    {string: scope for scope, strings in _STRINGS.items() for string in strings.split()}
)
"""Slack's error string -> whom it concerns."""

CODES: Mapping[Scope, str] = MappingProxyType(
    {
        Scope.RATE: "SLACK_RATE_LIMIT",
        Scope.PASSING: "SLACK_ERROR",
        Scope.AMBIGUOUS: "SLACK_ERROR",
        Scope.CHANNEL: "SLACK_CHANNEL_ERROR",
        Scope.WORKSPACE: "SLACK_AUTH_ERROR",
        Scope.QUOTA: "SLACK_QUOTA",
        Scope.MESSAGE: "SLACK_MESSAGE_REFUSED",
        Scope.UNKNOWN: "SLACK_ERROR",
    }
)
"""Whom it concerns -> the code of the error catalogue."""


def scope_of(string: str, http_status: int = 200) -> Scope:
    """Whom an error concerns. A server's error beats its string: Slack may have stored the message before it fell."""
    if http_status == 429:
        return Scope.RATE
    if http_status >= 500:
        return Scope.AMBIGUOUS
    return SCOPES.get(string, Scope.UNKNOWN)
