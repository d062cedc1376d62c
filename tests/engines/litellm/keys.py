"""Two keys without a database: what LiteLLM asks for each request."""

from litellm.proxy._types import UserAPIKeyAuth

KEYS = {
    "sk-risk": {"team_id": "team-risk", "team_alias": "Risk", "user_id": "alice", "key_alias": "risk-batch"},
    "sk-web": {"team_id": "team-web", "team_alias": "Web", "user_id": "bob", "key_alias": "web-prod"},
}


async def who(request, api_key: str) -> UserAPIKeyAuth:
    owner = KEYS.get(api_key.removeprefix("Bearer "))
    if owner is None:
        raise ValueError("no such key")
    return UserAPIKeyAuth(api_key=api_key, **owner)
