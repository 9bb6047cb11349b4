"""What is built on the core and never needed by it: chat templates, chat, constraints, the command line."""
