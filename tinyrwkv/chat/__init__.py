"""A chat: templates, settings that can be changed, turns that can be undone, conversations that can be kept."""
