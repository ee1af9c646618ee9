"""The Great Expectations gate: how measures are read, judged and described."""
