"""A chat: templates, settings, turns that can be taken back, conversations that can be saved."""
