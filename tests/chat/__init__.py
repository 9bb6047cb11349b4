"""Chat, templates, sessions."""
