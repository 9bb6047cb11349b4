"""A server that speaks the HTTP interface of OpenAI."""
