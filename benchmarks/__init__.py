"""What is measured: run by hand, figures in docs/decisions.md."""
