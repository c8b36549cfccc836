"""Metrics as tables for the terminal (rich renderables), a module for each task; nothing here prints."""
