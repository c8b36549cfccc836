"""What a run leaves to look at: tables for the terminal, plots, and a page that shows them all."""
