"""One file per page: layout and events, no decisions."""
