"""The `bitcodec` command: parse, call the library, print."""
