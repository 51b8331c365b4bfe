"""Models of the Hugging Face hub by words of their name.

    search("qwen coder") -> HubSearch: state, sentence, rows: id, weights, downloads, licence, gated

One request each, with a limit of time: the hub's own client has none for a list, and repeats what was refused for
half a minute.  HF_ENDPOINT, HF_HUB_OFFLINE and the log-in of this machine are honoured; of the token only the name of
its account is ever shown.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

from engine.contract.redact import redact
from studio.logic.model_choice import hub_endpoint, why_unreachable

LIMIT = 12
MIN_CHARACTERS, MAX_CHARACTERS = 2, 96
TIMEOUT_S = 8.0

State = Literal["empty", "results", "none", "offline", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """One model that was found."""

    name: str
    """Its id on the hub."""
    weights: int | None
    """How many weights its safetensors hold; None if the hub does not say."""
    downloads: int
    """In the last thirty days."""
    licence: str
    gated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSearch:
    """What a search gave."""

    query: str
    state: State
    text: str = ""
    """Why there is nothing."""
    models: tuple[HubModel, ...] = ()
    account: str = ""
    """Who this machine is on the hub; empty if it is not logged in, or that is not known."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values, for the page."""
        return asdict(self)


def search(words: str) -> HubSearch:
    """Look for models that write text, the most downloaded first. Never raises; returns within `TIMEOUT_S`."""
    query = " ".join(words.split())[:MAX_CHARACTERS]
    if len(query) < MIN_CHARACTERS:
        return HubSearch(query=query, state="empty")
    if reason := why_unreachable():
        return HubSearch(query=query, state="offline", text=reason)
    import httpx2 as httpx  # what huggingface_hub 2 is built on

    try:
        models, account = _find(query), _account()
    except httpx.HTTPStatusError as error:
        text = f"The hub refused the search with code {error.response.status_code}; try again in a moment."
        return HubSearch(query=query, state="error", text=text)
    except httpx.TimeoutException:
        return HubSearch(query=query, state="error", text=f"The hub did not answer within {TIMEOUT_S:.0f} seconds.")
    except (httpx.HTTPError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        lines = redact(str(error)).strip().splitlines()
        text = f"The hub could not be searched: {lines[0][:160] if lines else type(error).__name__}"
        return HubSearch(query=query, state="error", text=text)
    return HubSearch(query=query, state="results" if models else "none", models=models, account=account)


def _find(query: str) -> tuple[HubModel, ...]:
    asked = {"search": query, "pipeline_tag": "text-generation", "sort": "downloads", "limit": LIMIT}
    found = _get("/api/models", {**asked, "expand": ["downloads", "gated", "safetensors", "tags"]})
    if not isinstance(found, list):
        raise ValueError("what answered is not the Hugging Face hub.")
    return tuple(_model(entry) for entry in found[:LIMIT])


def _get(route: str, query: dict[str, Any]) -> Any:
    from huggingface_hub import get_session
    from huggingface_hub.utils._headers import build_hf_headers

    url = f"{hub_endpoint()}{route}"
    answer = get_session().get(url, params=query, headers=build_hf_headers(), timeout=TIMEOUT_S)
    answer.raise_for_status()
    return answer.json()


def _model(entry: dict[str, Any]) -> HubModel:
    tags = [str(tag) for tag in entry.get("tags") or []]
    licences = [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    total = (entry.get("safetensors") or {}).get("total")
    return HubModel(
        name=str(entry["id"])[:200],
        weights=total if isinstance(total, int) else None,
        downloads=int(entry.get("downloads") or 0),
        licence=licences[0][:40] if licences else "",
        gated=bool(entry.get("gated")),
    )


def _account() -> str:
    """Return the name behind the token of this machine; empty without one, or where the hub does not say."""
    import httpx2 as httpx
    from huggingface_hub import get_token

    token = get_token()
    try:
        return _name_of(token, hub_endpoint()) if token else ""
    except (httpx.HTTPError, OSError, ValueError, AttributeError):
        return ""


@lru_cache(maxsize=4)
def _name_of(token: str, endpoint: str) -> str:
    """Ask once for each token and hub: the hub limits this question more than others."""
    return str(_get("/api/whoami-v2", {}).get("name", ""))[:60]
