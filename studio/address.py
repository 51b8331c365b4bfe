"""The address of a page follows its pickers, so that it opens the same view again.

The other direction is the page's own: its `load` handler reads `gr.Request.query_params`.
"""

from __future__ import annotations

import json


def address_js(*names: str) -> str:
    """Return JavaScript for an event: put its inputs into the address under these names, an empty one is taken out."""
    return f"""(...values) => {{
  const url = new URL(location.href);
  {json.dumps(names)}.forEach((name, i) => {{
    if (values[i]) url.searchParams.set(name, values[i]); else url.searchParams.delete(name);
  }});
  if (url.href !== location.href) history.replaceState(history.state, "", url);
}}"""
