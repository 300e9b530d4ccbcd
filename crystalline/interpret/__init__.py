"""What codes stand for: readings, tables, figures."""
