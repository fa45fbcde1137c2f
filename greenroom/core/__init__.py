"""Pure decisions and models: standard library and pydantic only, no clock, no I/O."""
