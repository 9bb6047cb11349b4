"""What runs a program: backends, their memory and threads, and how far one call goes."""
