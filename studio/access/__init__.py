"""Who may open the studio: accounts, log-in, sessions, and when it may be opened to others at all."""
