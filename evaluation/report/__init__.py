"""What an evaluation leaves: results, tables, the HTML page, logs."""
