"""The options: schema, command line, files and what may be recorded."""
